"""Learning rates: schedules, what drives an optimizer with them, the range test and its verdict."""
