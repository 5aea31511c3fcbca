"""The commands, one file for each verb; torch and ray are imported when one is run."""
