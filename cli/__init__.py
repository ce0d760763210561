"""cli: the front door. `main` runs a command line, `catalogue` lists what there is."""
