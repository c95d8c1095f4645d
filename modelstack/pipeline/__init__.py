"""All twelve steps in one command, `modelstack pipeline`: from raw text to a released model that an agent uses."""
