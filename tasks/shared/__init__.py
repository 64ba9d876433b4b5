"""A store that several machines share: objects below a URL, of which every machine has a copy of what it uses."""
