-- A journal of format 1, as its own program wrote it.
PRAGMA application_id=1095191370;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE branches(
    session_id TEXT NOT NULL,
    branch TEXT NOT NULL,
    tip BLOB,
    updated_at REAL NOT NULL,
    PRIMARY KEY (session_id, branch)
) WITHOUT ROWID;
INSERT INTO "branches" VALUES('user 7','main',X'26DE8C2E9EFEA2A9696722674FDC3C1D',1.79573290754452133e+09);
CREATE TABLE calls(
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT NOT NULL,
    answer TEXT, -- NULL: started, and nothing is known of its end
    PRIMARY KEY (run_id, tool_call_id)
) WITHOUT ROWID;
INSERT INTO "calls" VALUES('run_in_flight','call_a',NULL);
INSERT INTO "calls" VALUES('run_in_flight','call_z','{"tool_name":"record","tool_call_id":"call_z","content":"recorded “call_z”","data":{"key":"call_z"},"is_error":false,"part_kind":"tool-return"}');
INSERT INTO "calls" VALUES('run_nested','call_outer',NULL);
INSERT INTO "calls" VALUES('run_nested','call_outer.1','{"tool_name":"record","tool_call_id":"call_outer.1","content":"recorded “call_outer.1”","data":{"key":"call_outer.1"},"is_error":false,"part_kind":"tool-return"}');
INSERT INTO "calls" VALUES('run_nested','call_outer.2',NULL);
INSERT INTO "calls" VALUES('run_waiting','call_w',NULL);
CREATE TABLE messages(
    id BLOB NOT NULL UNIQUE, -- hash of parent and body
    parent BLOB,
    body TEXT NOT NULL
);
INSERT INTO "messages" VALUES(X'AA9E4E3634214FD7361C391E4974987B',NULL,'{"parts":[{"content":"record three","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'EA0B51A19F17EF4B4253DFC51DD58427',X'AA9E4E3634214FD7361C391E4974987B','{"parts":[{"tool_name":"record","arguments":"{\"key\": \"call_z\"}","tool_call_id":"call_z","probability":null,"alternatives":[],"part_kind":"tool-call"},{"tool_name":"record","arguments":"{\"key\": \"call_a\"}","tool_call_id":"call_a","probability":null,"alternatives":[],"part_kind":"tool-call"},{"tool_name":"record","arguments":"{\"key\": \"call_m\"}","tool_call_id":"call_m","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"scripted","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'6BFD0240953365BCD5B072BC1F315A1E',NULL,'{"parts":[{"content":"by code","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'1CFC0821BBFC7E81693AADC02C958BD1',X'6BFD0240953365BCD5B072BC1F315A1E','{"parts":[{"tool_name":"record","arguments":"{\"key\": \"call_outer\"}","tool_call_id":"call_outer","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"scripted","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'07D7823B190ECD483086E4C9941DBF28',NULL,'{"parts":[{"content":"record one","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'AD9E4A177A6E639292A1E472E3DBA916',X'07D7823B190ECD483086E4C9941DBF28','{"parts":[{"tool_name":"record","arguments":"{\"key\": \"call_w\"}","tool_call_id":"call_w","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"scripted","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'E7D13468781C1C547CDC0A3CF20CF88D',X'07D7823B190ECD483086E4C9941DBF28','{"parts":[{"tool_name":"record","arguments":"{\"key\": \"call_d\"}","tool_call_id":"call_d","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"scripted","finish_reason":"stop","decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'944B98B3AE951F1EDCCD43E2E003B1ED',X'E7D13468781C1C547CDC0A3CF20CF88D','{"parts":[{"tool_name":"record","tool_call_id":"call_d","content":"recorded “call_d”","data":{"key":"call_d"},"is_error":false,"part_kind":"tool-return"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'26DE8C2E9EFEA2A9696722674FDC3C1D',X'944B98B3AE951F1EDCCD43E2E003B1ED','{"parts":[{"content":"done","part_kind":"text"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
CREATE TABLE runs(
    run_id TEXT PRIMARY KEY,
    agent_name TEXT,
    status TEXT NOT NULL,
    tip BLOB, -- the last message
    head TEXT NOT NULL, -- the state without its messages
    generation INTEGER NOT NULL, -- whoever writes must know it
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
INSERT INTO "runs" VALUES('run_in_flight','archivist','running',X'EA0B51A19F17EF4B4253DFC51DD58427','{"schema_version":1,"n_history":0,"run_id":"run_in_flight","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79573290161891222e+09,1.79573290178500318e+09);
INSERT INTO "runs" VALUES('run_nested','archivist','running',X'1CFC0821BBFC7E81693AADC02C958BD1','{"schema_version":1,"n_history":0,"run_id":"run_nested","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79573290178573775e+09,1.79573290178591942e+09);
INSERT INTO "runs" VALUES('run_waiting','archivist','needs_approval',X'AD9E4A177A6E639292A1E472E3DBA916','{"schema_version":1,"n_history":0,"run_id":"run_waiting","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[{"tool_name":"record","tool_call_id":"call_w","arguments":"{\"key\":\"call_w\"}","digest":"343c2f0f7223c7952f434475cc0dde654a92994400024ae1f7313e382b07a573","reason":"its process ended while it ran; it may have taken effect","kind":"unknown"}],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79573290178618454e+09,1.79573290743649458e+09);
INSERT INTO "runs" VALUES('run_done','archivist','completed',X'26DE8C2E9EFEA2A9696722674FDC3C1D','{"schema_version":1,"n_history":0,"run_id":"run_done","usage":{"requests":2,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":2,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79573290743678379e+09,1.79573290743700528e+09);
COMMIT;
