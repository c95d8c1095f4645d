"""Running suites: on inspect-ai, journalled, resumed, summed up, compared."""
