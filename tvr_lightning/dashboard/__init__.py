"""What runs show: pictures and curves kept in their folders, one static page over them, a report in W&B."""
