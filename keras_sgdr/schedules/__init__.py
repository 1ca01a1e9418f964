"""Learning-rate schedules, as callbacks and as Keras schedules."""
