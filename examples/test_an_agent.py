"""Test an agent without a model: by a double that calls every tool, and by one that follows a script.

Run it by `pytest test_an_agent.py`, or as a program.
"""

from agentkit import Agent, UserError
from agentkit.testing import ScriptedModel, TestModel, block_model_requests, call

carts: dict[str, int] = {}


def add_to_cart(product: str, pieces: int) -> str:
    """Put a product into the cart."""
    carts[product] = carts.get(product, 0) + pieces
    return f"{pieces} {product}"


agent = Agent("local", tools=[add_to_cart], instructions="You help in a garden shop.")
"""The agent of an application, as its code declares it."""


def test_every_tool_takes_the_smallest_valid_arguments() -> None:
    """`TestModel` calls each tool once, with arguments made from its schema."""
    with agent.override(model=TestModel()):
        assert agent.run_sync("anything").usage.tool_calls == 1


def test_two_spades_are_in_the_cart() -> None:
    """`ScriptedModel` plays a conversation, and records what the model was sent."""
    carts.clear()
    model = ScriptedModel([call("add_to_cart", product="spade", pieces=2), "Two spades are in your cart."])
    with agent.override(model=model):
        assert agent.run_sync("I need two spades.").output == "Two spades are in your cart."
    assert carts == {"spade": 2}
    assert [shown.name for shown in model.calls[0].parameters.tools] == ["add_to_cart"]
    model.assert_complete()


def test_no_test_asks_a_real_model() -> None:
    """`block_model_requests` makes a forgotten `override` an error; put it into a fixture for all tests."""
    with block_model_requests():
        try:
            agent.run_sync("Hello")
        except UserError as error:
            assert "block_model_requests" in str(error)
        else:
            raise AssertionError("the model was asked")


if __name__ == "__main__":
    test_every_tool_takes_the_smallest_valid_arguments()
    test_two_spades_are_in_the_cart()
    test_no_test_asks_a_real_model()
    print("three tests passed")
