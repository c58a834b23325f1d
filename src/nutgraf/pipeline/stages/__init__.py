"""Run the stages of a study, a module each."""
