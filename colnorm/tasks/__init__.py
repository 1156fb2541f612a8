"""Trainings that live in a run directory: configs, the tagging task, one ``train`` and one ``evaluate`` for any task."""
