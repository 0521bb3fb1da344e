"""Text, token by token, and the tasks that write it."""
