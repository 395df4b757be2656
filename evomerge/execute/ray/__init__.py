"""Workers on Ray. The only importer of ray."""
