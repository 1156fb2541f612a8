"""What is read from disk: images and tagged text, checked where it is read."""
