"""What makes our layers at home in other projects. Nothing here is imported unless asked for by its full name."""
