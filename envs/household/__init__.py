"""Household: the ALFWorld text engine, on generated rooms or on the official games."""
