"""Selection: what happens to groups between playing and learning. The hook is `base.Selection`."""
