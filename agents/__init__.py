"""Players: who plays, and what exactly did it see and say? Imports envs."""
