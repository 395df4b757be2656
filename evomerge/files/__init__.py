"""Files that survive a crash: whole lines, whole texts, whole folders."""
