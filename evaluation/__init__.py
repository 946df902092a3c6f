"""From features to numbers: the feature file, rankings, re-ranking, how data sets score."""
