"""The learner: parameters, optimiser, update. It knows no recipe."""
