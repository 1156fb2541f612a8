"""Speed beside the peers: both sides in one process, interleaved, after comparing what they compute."""
