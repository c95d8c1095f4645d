"""Plans that a run follows: steps supplied by code, or written by the model under a grammar."""

from agentkit.planning.plan import Plan, PlanStep
from agentkit.planning.planner import ModelPlanner, Planner, PlanTemplate, Situation, TemplateStep

__all__ = ["ModelPlanner", "Plan", "PlanStep", "PlanTemplate", "Planner", "Situation", "TemplateStep"]
