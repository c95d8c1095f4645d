"""Monitor of a reply on the hidden states of the model that writes it. numpy and safetensors alone."""
