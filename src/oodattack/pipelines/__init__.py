"""What a verb does from end to end: attack a folder, audit detectors, train a network."""
