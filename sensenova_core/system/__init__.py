"""The machine around us: what people write for a file, locks that end with a process, whose turn it is."""
