"""Chat templates that show tools, in the manner of well-known models, written for the tests."""

from __future__ import annotations

HERMES = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set system = 'You are helpful.' %}{% set turns = messages %}{% endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
    {{- '\n\n# Tools\n\n<tools>' }}
    {%- for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\n</tools>\n\nCall one as\n<tool_call>\n{"name": <name>, "arguments": <args>}\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or turns[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or turns[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- elif message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
"""Qwen 2.5: results that follow each other share a user turn."""

HERMES_THINKING = HERMES.replace(
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}",
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{- message.content + '<|im_end|>\n' }}",
).replace(
    "{{ '<|im_start|>assistant\n' }}{% endif %}\n",
    "{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}\n",
)
"""Qwen 3: the last reply is written otherwise than earlier ones; a thought can be switched off."""

LLAMA3 = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}{{ 'Environment: ipython\n' }}{% endif %}
{{- system + '<|eot_id|>' }}
{%- if tools is not none %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\nReply with {"name": name, "parameters": values}.\n\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}
    {{- turns[0].content | trim + '<|eot_id|>' }}
    {%- set turns = turns[1:] %}
{%- endif %}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if message.content is mapping or message.content is iterable %}{{ message.content | tojson }}
        {%- else %}{{ message.content }}{% endif %}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{ '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""
"""Llama 3.1: tools stand in the first user turn, results are JSON, contents are trimmed."""

LLAMA3_OUTPUT = LLAMA3.replace(
    "{%- if message.content is mapping or message.content is iterable %}{{ message.content | tojson }}\n"
    "        {%- else %}{{ message.content }}{% endif %}",
    "{{- {'output': message.content} | tojson }}",
)
"""vLLM's variant for Llama 3: results are objects."""

MISTRAL = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}
{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and message == users[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' }}
        {%- if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}
        {{- message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- set text = call.function | tojson %}
            {%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
            {{- text[:-1] + ', "id": "' + call.id + '"}' }}{{ ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
"""Mistral v0.3: tools and the system prompt stand before the last user turn, calls and results have ids."""

MISTRAL_NEMO = MISTRAL.replace("'[TOOL_CALLS] ['", "'[TOOL_CALLS]['")

GRANITE = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set system = 'You are Granite.' %}{% set turns = messages %}{% endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system }}
{%- if tools %}{{ ' Where a tool is needed, respond with <|tool_call|> and a JSON list.' }}{% endif %}
{{- '<|end_of_text|>\n' }}
{%- if tools %}
    {{- '<|start_of_role|>tools<|end_of_role|>' }}{{ tools | tojson(indent=4) }}{{ '<|end_of_text|>\n' }}
{%- endif %}
{%- for message in turns %}
    {{- '<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}
"""
"""Granite 3: the template describes calls, and leaves their writing to the caller."""

DEEPSEEK = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}
{%- if tools %}{{ '\n\n## Tools\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{% endif %}
{%- for message in turns %}
    {%- if message.role == 'user' %}{{ '<｜User｜>' + message.content }}
    {%- elif message.role == 'tool' %}
        {%- if turns[loop.index0 - 1].role == 'tool' %}{{ '\n' }}
        {%- else %}{{ '<｜tool▁outputs▁begin｜>' }}{% endif %}
        {{- '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}
        {%- if loop.last or turns[loop.index0 + 1].role != 'tool' %}{{ '<｜tool▁outputs▁end｜>' }}{% endif %}
    {%- elif message.tool_calls %}
        {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
        {%- for call in message.tool_calls %}
            {{- '<｜tool▁call▁begin｜>' + call.type + '<｜tool▁sep｜>' + call.function.name + '\n```json\n' }}
            {{- call.function.arguments + '\n```<｜tool▁call▁end｜>' }}{{ '\n' if not loop.last else '' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- else %}{{ '<｜Assistant｜>' + message.content + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}
"""
"""DeepSeek V3 with tools: arguments are given as JSON text."""

QWEN3_CODER = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set system = 'You are Qwen.' %}{% set turns = messages %}{% endif %}
{{- '<|im_start|>system\n' + system }}
{%- if tools %}
    {{- '\n\n# Tools\n\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n<function>\n<name>' ~ tool.function.name ~ '</name>\n<parameters>' }}
        {%- for name, field in tool.function.parameters.properties | items %}
            {{- '\n<parameter>\n<name>' ~ name ~ '</name>\n<type>' ~ field.type ~ '</type>\n</parameter>' }}
        {%- endfor %}
        {{- '\n</parameters>\n</function>' }}
    {%- endfor %}
    {{- '\n</tools>\n\nReply with\n<tool_call>\n<function=name>\n<parameter=p>\nv\n</parameter>\n</function>' }}
    {{- '\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {%- if turns[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user\n' }}{% endif %}
        {{- '<tool_response>\n' + message.content + '\n</tool_response>\n' }}
        {%- if loop.last or turns[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- elif message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\n' + message.content | trim + '\n' }}{% endif %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>\n<function=' + call.function.name + '>\n' }}
            {%- for name, value in call.function.arguments | items %}
                {{- '<parameter=' + name + '>\n' }}
                {%- if value is mapping or (value is sequence and value is not string) %}{{ value | tojson }}
                {%- else %}{{ value | string }}{% endif %}
                {{- '\n</parameter>\n' }}
            {%- endfor %}
            {{- '</function>\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
LFM2 = """
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{%- if tools %}
    {%- set shown = 'List of tools: <|tool_list_start|>' + tools | tojson + '<|tool_list_end|>' %}
    {%- set system = system + ('\n' if system else '') + shown %}
{%- endif %}
{%- if system %}{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}{% endif %}
{%- for message in turns %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.role == 'tool' %}{{ '<|tool_response_start|>' + message.content + '<|tool_response_end|>' }}
    {%- else %}{{ message.content }}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
"""LFM2: the template shows tools, and leaves the writing of calls to the caller."""

LFM2_WRITING = (
    (
        LFM2.replace("<|tool_list_start|>", "")
        .replace("<|tool_list_end|>", "")
        .replace("<|tool_response_start|>", "")
    )
    .replace("<|tool_response_end|>", "")
    .replace(
        "{%- else %}{{ message.content }}{% endif %}",
        "{%- else %}{{ message.content or '' }}{% endif %}"
        "{%- if message.tool_calls %}{{ '<|tool_call_start|>[' }}"
        "{%- for call in message.tool_calls %}{{ call.function.name + '(' }}"
        "{%- for name, value in call.function.arguments | items %}{{ name + '=' }}"
        "{%- if value is string %}{{ QUOTED }}{% elif LISTS %}{{ value | tojson }}"
        "{%- else %}{{ value | string }}{% endif %}"
        "{{- ', ' if not loop.last else '' }}{% endfor %}{{ ')' + (', ' if not loop.last else '') }}{% endfor %}"
        "{{- ']<|tool_call_end|>' }}{% endif %}",
    )
)
LFM2_5 = LFM2_WRITING.replace("QUOTED", "'\"' + value + '\"'").replace("LISTS", "value is mapping")
LFM2_5_SINGLE = LFM2_WRITING.replace("QUOTED", '"\'" + value + "\'"').replace("LISTS", "value is mapping")
_ESCAPED = (
    r"""(value | replace('\\', '\\\\') | replace("'", "\\'") | replace('\n', '\\n') | replace('\r', '\\r'))"""
)
LFM2_5_JSON_LISTS = LFM2_WRITING.replace("QUOTED", f'"\'" + {_ESCAPED} + "\'"').replace(
    "LISTS", "value is mapping or value is iterable"
)

_GEMMA_MACROS = """
{%- macro written(value) -%}
    {%- if value is string %}{{ 'QUOTE' + value + 'QUOTE' }}
    {%- elif value is boolean %}{{ 'true' if value else 'false' }}
    {%- elif value is mapping %}{{ '{' + members(value) + '}' }}
    {%- elif value is sequence %}{{ '[' }}
        {%- for item in value %}{{ written(item) + (',' if not loop.last else '') }}{% endfor %}{{ ']' }}
    {%- else %}{{ value }}{% endif %}
{%- endmacro %}
{%- macro members(object) -%}
    {%- for key, value in object | dictsort %}
        {{- key + ':' + written(value) + (',' if not loop.last else '') }}
    {%- endfor %}
{%- endmacro %}
{%- macro declared(function) -%}
    {{- 'declaration:' + function.name + '{description:' + written(function.description) }}
    {{- ',parameters:{properties:{' }}
    {%- for name, field in function.parameters.properties | dictsort %}
        {{- (',' if not loop.first else '') + name + ':{' }}
        {%- if DESCRIBED %}{{ 'description:' + written(field.description or '') + ',' }}{% endif %}
        {%- if field.type == 'array' %}
            {{- 'items:{type:' + written(field['items'].type | upper) + '},' }}
        {%- endif %}
        {{- 'type:' + written(field.type | upper) + '}' }}
    {%- endfor %}
    {{- '},' }}
    {%- set required = function.parameters.required %}
    {{- 'required:' + written(required) + ',' if required else '' }}
    {{- 'type:' + written(function.parameters.type | upper) + '}}' }}
{%- endmacro %}
"""
FUNCTIONGEMMA = (
    _GEMMA_MACROS.replace("QUOTE", "<escape>").replace("DESCRIBED", "true")
    + """
{{- bos_token }}
{%- set turns, system = messages, 'You are a model that can do function calling with the following functions' %}
{%- if messages[0].role == 'system' %}
    {%- set turns, system = messages[1:], messages[0].content | trim %}
{%- endif %}
{%- if tools or messages[0].role == 'system' %}
    {{- '<start_of_turn>developer\n' + system }}
    {%- for tool in tools or [] %}
        {{- '<start_function_declaration>' + declared(tool.function) + '<end_function_declaration>' }}
    {%- endfor %}
    {{- '<end_of_turn>\n' }}
{%- endif %}
{%- set ns = namespace(before='') %}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {{- '<start_function_response>response:' + message.name }}
        {{- '{' + members({'value': message.content}) + '}<end_function_response>' }}
    {%- else %}
        {%- set role = 'model' if message.role == 'assistant' else message.role %}
        {%- if ns.before != 'tool' %}{{ '<start_of_turn>' + role + '\n' }}{% endif %}
        {{- message.content | trim if message.content else '' }}
        {%- for call in message.tool_calls or [] %}
            {{- '<start_function_call>call:' + call.function.name }}
            {{- '{' + members(call.function.arguments) + '}<end_function_call>' }}
        {%- endfor %}
        {%- if not message.tool_calls %}{{ '<end_of_turn>\n' }}{% endif %}
    {%- endif %}
    {%- set ns.before = message.role %}
{%- endfor %}
{%- if add_generation_prompt and ns.before != 'tool' %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
)
"""FunctionGemma: results stand in the turn of their calls, where the reply to them goes on."""

GEMMA4 = (
    _GEMMA_MACROS.replace("QUOTE", '<|"|>')
    .replace("DESCRIBED", "field.description")
    .replace("{%- if value is string %}", "{%- if value is none %}null{% elif value is string %}")
    + """
{{- bos_token }}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- if tools or enable_thinking or messages[0].role == 'system' %}
    {{- '<|turn>system\n' + ('<|think|>\n' if enable_thinking else '') }}
    {{- messages[0].content | trim if messages[0].role == 'system' else '' }}
    {%- for tool in tools or [] %}{{ '<|tool>' + declared(tool.function) + '<tool|>' }}{% endfor %}
    {{- '<turn|>\n' }}
{%- endif %}
{%- set ns = namespace(before='', call=none) %}
{%- for message in turns %}
    {%- if message.role == 'tool' %}
        {{- '<|tool_response>response:' + ns.call.function.name }}
        {{- '{' + members({'value': message.content}) + '}<tool_response|>' }}
    {%- else %}
        {%- set role = 'model' if message.role == 'assistant' else message.role %}
        {%- if ns.before == 'tool' and role != 'model' %}{{ '<turn|>\n' }}{% endif %}
        {%- if ns.before not in ('tool', 'assistant') or role != 'model' %}{{ '<|turn>' + role + '\n' }}{% endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '<|tool_call>call:' + call.function.name }}
            {{- '{' + members(call.function.arguments) + '}<tool_call|>' }}
            {%- set ns.call = call %}
        {%- endfor %}
        {{- message.content | trim if message.content else '' }}
        {%- set goes_on = role == 'model' and not loop.last and turns[loop.index0 + 1].role == 'assistant' %}
        {%- if not message.tool_calls and not goes_on %}{{ '<turn|>\n' }}{% endif %}
    {%- endif %}
    {%- set ns.before = message.role %}
{%- endfor %}
{%- if add_generation_prompt and ns.before != 'tool' %}
    {{- '<|turn>model\n' + ('<|channel>thought\n<channel|>' if not enable_thinking else '') }}
{%- elif add_generation_prompt and enable_thinking %}{{ '<|channel>thought\n' }}{% endif %}
"""
)
"""Gemma 4 31B: as FunctionGemma; a thought has to be asked for, and an empty one stands before other replies."""

GEMMA4_SMALL = GEMMA4.replace("('<|channel>thought\n<channel|>' if not enable_thinking else '')", "''")
"""Gemma 4 E2B: no empty thought."""
GEMMA4_FIRST = (
    GEMMA4_SMALL.replace("{%- if message.role == 'tool' %}", "{%- if false %}")
    .replace("ns.before == 'tool' and role != 'model'", "false")
    .replace("ns.before not in ('tool', 'assistant') or role != 'model'", "true")
    .replace("not message.tool_calls and not goes_on", "true")
    .replace("add_generation_prompt and ns.before != 'tool'", "add_generation_prompt")
)
"""Gemma 4 as it was first published: results stand in turns of their own."""

SMOLLM3 = """
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set system = 'You are SmolLM.' %}{% set turns = messages %}{% endif %}
{{- '<|im_start|>system\n## Metadata\n\nReasoning Mode: /no_think\n\n' + system + '\n\n' }}
{%- if xml_tools %}
    {{- '### Tools\n\nReturn a JSON object within <tool_call></tool_call> tags.\n\n<tools>\n' }}
    {%- for tool in xml_tools %}{{ tool | string }}{{ '\n' }}{% endfor %}{{ '</tools>\n\n' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in turns %}
    {%- set content = message.content if message.content is string else '' %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
"""SmolLM3: has a name of its own for the tools, and leaves the writing of calls to the caller."""

TAUGHT = {
    "hermes": HERMES,
    "hermes, thinking": HERMES_THINKING,
    "hermes, in content": SMOLLM3,
    "llama3": LLAMA3,
    "llama3, output": LLAMA3_OUTPUT,
    "mistral": MISTRAL,
    "mistral-nemo": MISTRAL_NEMO,
    "granite": GRANITE,
    "deepseek": DEEPSEEK,
    "qwen3-coder": QWEN3_CODER,
    "lfm2, in content": LFM2,
    "lfm2": LFM2_5,
    "lfm2-single": LFM2_5_SINGLE,
    "lfm2-json-lists": LFM2_5_JSON_LISTS,
    "functiongemma": FUNCTIONGEMMA,
    "gemma4": GEMMA4,
    "gemma4, small": GEMMA4_SMALL,
    "gemma4, first": GEMMA4_FIRST,
}
"""Name of the convention, and of the variant behind a comma."""

SHOWS_NO_TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RAISES = HERMES + "{% if tools %}{{ raise_exception('no tools, please') }}{% endif %}"
NEVER_ENDS = HERMES + (
    "{% if tools %}{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}"
    "{% endfor %}{% endfor %}{% endfor %}{% endif %}"
)
FORGES = HERMES.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n' + messages[0].content }}")
"""Says a content twice, the second time as if the model had begun with it."""
WRITES_OTHERWISE = HERMES.replace("</tool_call>", "</call>").replace("<tool_call>", "<call>")
UNUSABLE = {
    "shows no tools": SHOWS_NO_TOOLS,
    "raises": RAISES,
    "never ends": NEVER_ENDS,
    "forges": FORGES,
    "writes otherwise": WRITES_OTHERWISE,
    "is no template": "{% if %}",
}
