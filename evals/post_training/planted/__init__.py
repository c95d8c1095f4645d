"""A planted preference: a nano model, a judge with known rules, and five methods to learn its preference."""
