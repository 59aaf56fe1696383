"""Subject, relation, object of captions."""
