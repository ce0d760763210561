"""Models that somebody else serves, as players: nothing is known of them but what they answer."""
