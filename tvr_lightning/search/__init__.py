"""Your own videos: an index of them, searched by text or by example."""
