"""Learning: what does the policy learn from what was played? Imports every room below."""
