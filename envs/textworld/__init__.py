"""TextWorld: generated text games (quest, coin, treasure, simple, cooking)."""
