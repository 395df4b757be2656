"""Files that survive a crash: whole lines, whole texts, whole folders. And files from outside, read with care."""
