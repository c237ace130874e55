"""Work described once: pieces with keys, made or found anywhere, by one scheduler."""
