"""What is kept on disk: decoded frames and features of frozen encoders."""
