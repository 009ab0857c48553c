"""What a measured run means: the verdict in words, and advice."""
