"""ScienceWorld: elementary science as text, on the original simulator."""
