"""The study: commands that train, evaluate and show what the library's parts do on real data."""
