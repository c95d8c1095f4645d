"""Two adapters with a skill each, merged by five methods: what is left of both skills in each child."""
