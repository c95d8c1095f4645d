-- A journal of format 2, as its own program wrote it.
PRAGMA application_id=1095191370;
PRAGMA user_version=2;
BEGIN TRANSACTION;
CREATE TABLE answers( -- of calls, until the head has them
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (run_id, tool_call_id)
) WITHOUT ROWID
;
CREATE TABLE branches(
    session_id TEXT NOT NULL,
    branch TEXT NOT NULL,
    tip BLOB,
    updated_at REAL NOT NULL,
    PRIMARY KEY (session_id, branch)
) WITHOUT ROWID
;
INSERT INTO "branches" VALUES('user 7','main',X'403249F01DAB909D770425E5823051FE',1.79591566009513235e+09);
CREATE TABLE messages(
    id BLOB NOT NULL UNIQUE, -- hash of parent and body
    parent BLOB,
    body TEXT NOT NULL
);
INSERT INTO "messages" VALUES(X'4AE3B1670709B90038D4978F97E75A23',NULL,'{"parts":[{"content":"go","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'4240875CB62E64560F0A8C7F6F801971',X'4AE3B1670709B90038D4978F97E75A23','{"parts":[{"tool_name":"note","arguments":"{\"amount\":1}","tool_call_id":"call_n","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'53C64FD6465FFB359A8E8B67518A5A1F',X'4240875CB62E64560F0A8C7F6F801971','{"parts":[{"tool_name":"note","tool_call_id":"call_n","content":"noted 1","data":"noted 1","is_error":false,"part_kind":"tool-return"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'403249F01DAB909D770425E5823051FE',X'53C64FD6465FFB359A8E8B67518A5A1F','{"parts":[{"content":"done","part_kind":"text"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'7B532BF13860F66085C879A5D39339B7',X'4AE3B1670709B90038D4978F97E75A23','{"parts":[{"tool_name":"pay","arguments":"{\"amount\":5}","tool_call_id":"call_p","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'C680BCF91BAD5FEC38256154BD95499B',X'4AE3B1670709B90038D4978F97E75A23','{"parts":[{"tool_name":"free","arguments":"{\"amount\":5}","tool_call_id":"call_f","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'11957CBB6375710E0D8569A8057C6155',X'4AE3B1670709B90038D4978F97E75A23','{"parts":[{"tool_name":"teller","arguments":"{\"task\":\"pay\"}","tool_call_id":"call_t","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'129E9F614E113B120DB4BD469617A1F9',NULL,'{"parts":[{"content":"pay","part_kind":"user-prompt"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'C0A11BC9896DA875A1211660F6DF23EF',X'129E9F614E113B120DB4BD469617A1F9','{"parts":[{"tool_name":"note","arguments":"{\"amount\":1}","tool_call_id":"call_n","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
INSERT INTO "messages" VALUES(X'7D7AE939486FAAB58EC9BEF6083BC87B',X'C0A11BC9896DA875A1211660F6DF23EF','{"parts":[{"tool_name":"note","tool_call_id":"call_n","content":"noted 1","data":"noted 1","is_error":false,"part_kind":"tool-return"}],"kind":"request"}');
INSERT INTO "messages" VALUES(X'C9CC7D2D8DE730B02E5D36D8B01E90D6',X'7D7AE939486FAAB58EC9BEF6083BC87B','{"parts":[{"tool_name":"pay","arguments":"{\"amount\":5}","tool_call_id":"call_p","probability":null,"alternatives":[],"part_kind":"tool-call"}],"usage":{"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"model_name":"","finish_reason":null,"decoding":null,"p_answer":null,"abstained":false,"kind":"response"}');
CREATE TABLE runs(
    run_id TEXT PRIMARY KEY,
    agent_name TEXT,
    status TEXT NOT NULL,
    tip BLOB, -- the last message
    head TEXT NOT NULL, -- the state without its messages
    generation INTEGER NOT NULL, -- whoever writes must know it
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started TEXT -- JSON, ids of calls; of one that is not in answers, nothing is known of its end. NULL: none
);
INSERT INTO "runs" VALUES('run_done','payer','completed',X'403249F01DAB909D770425E5823051FE','{"schema_version":1,"n_history":0,"run_id":"run_done","usage":{"requests":2,"tool_calls":1,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":2,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":"completed","answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79591566009427356e+09,1.79591566009508061e+09,NULL);
INSERT INTO "runs" VALUES('run_waiting','payer','needs_approval',X'7B532BF13860F66085C879A5D39339B7','{"schema_version":1,"n_history":0,"run_id":"run_waiting","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[{"tool_name":"pay","tool_call_id":"call_p","arguments":"{\"amount\":5}","digest":"6583cd21c5a74929f842abfe8aa5fd67884fcefb6c282e4f343106155778b237","reason":"its tool needs approval","kind":"approval"}],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79591566009665107e+09,1.79591566009691214e+09,NULL);
INSERT INTO "runs" VALUES('run_approved','payer','running',X'7B532BF13860F66085C879A5D39339B7','{"schema_version":1,"n_history":0,"run_id":"run_approved","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[{"tool_name":"pay","tool_call_id":"call_p","digest":"6583cd21c5a74929f842abfe8aa5fd67884fcefb6c282e4f343106155778b237"}],"plan":null,"compacted":null,"handed":[]}',1,'{"user": "7"}',1.79591566009709739e+09,1.79591566011863517e+09,'["call_p"]');
INSERT INTO "runs" VALUES('run_in_flight','payer','running',X'C680BCF91BAD5FEC38256154BD95499B','{"schema_version":1,"n_history":0,"run_id":"run_in_flight","usage":{"requests":1,"tool_calls":0,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79591566011988019e+09,1.79591566012010908e+09,'["call_f"]');
INSERT INTO "runs" VALUES('run_outer','payer','needs_approval',X'11957CBB6375710E0D8569A8057C6155','{"schema_version":1,"n_history":0,"run_id":"run_outer","usage":{"requests":3,"tool_calls":1,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":1,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[{"tool_name":"teller","tool_call_id":"call_t","arguments":"{\"task\":\"pay\"}","digest":"e333c187ade06e35dd6a7a4128cf873efad82e60129560a20f445f20e48bfb87","reason":"teller wants to run pay {\"amount\":5}: its tool needs approval","kind":"approval"}],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{"user": "7"}',1.79591566019846129e+09,1.79591566020332217e+09,NULL);
INSERT INTO "runs" VALUES('run_outer.call_t','teller','needs_approval',X'C9CC7D2D8DE730B02E5D36D8B01E90D6','{"schema_version":1,"n_history":0,"run_id":"run_outer.call_t","usage":{"requests":2,"tool_calls":1,"input_tokens":0,"cache_read_tokens":0,"output_tokens":0},"step":2,"retries":[],"output_retries":0,"disabled_tools":[],"limit":null,"confidence":null,"tainted":false,"ending":null,"answers":[],"pending":[{"tool_name":"pay","tool_call_id":"call_p","arguments":"{\"amount\":5}","digest":"6583cd21c5a74929f842abfe8aa5fd67884fcefb6c282e4f343106155778b237","reason":"its tool needs approval","kind":"approval"}],"in_doubt":[],"grants":[],"plan":null,"compacted":null,"handed":[]}',0,'{}',1.79591566020248699e+09,1.79591566020321846e+09,NULL);
COMMIT;
