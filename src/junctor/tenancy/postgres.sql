-- The store in PostgreSQL: tables, and one function for each step of a call. {version} is written down when all of it is there.
CREATE SCHEMA IF NOT EXISTS junctor;
CREATE TABLE IF NOT EXISTS junctor.keys (id text PRIMARY KEY, record text NOT NULL, made float8 NOT NULL);
CREATE TABLE IF NOT EXISTS junctor.hashes (hash bytea PRIMARY KEY, key text NOT NULL, until float8);
CREATE INDEX IF NOT EXISTS hashes_key ON junctor.hashes (key);
CREATE TABLE IF NOT EXISTS junctor.account (
    name text PRIMARY KEY, period bigint NOT NULL DEFAULT 0, spent bigint NOT NULL DEFAULT 0, second bigint NOT NULL DEFAULT 0,
    soft bigint NOT NULL DEFAULT 0, hard bigint NOT NULL DEFAULT 0, asked bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY[64]),
    taken bigint[] NOT NULL DEFAULT array_fill(0::bigint, ARRAY[64]));
CREATE TABLE IF NOT EXISTS junctor.hold (
    ticket text, account text, amount bigint NOT NULL, expires float8 NOT NULL, PRIMARY KEY (account, ticket));
CREATE TABLE IF NOT EXISTS junctor.spent (account text, period bigint, nano bigint NOT NULL, PRIMARY KEY (account, period));
CREATE TABLE IF NOT EXISTS junctor.worker (id text PRIMARY KEY, number bigint NOT NULL, seen float8 NOT NULL);
CREATE TABLE IF NOT EXISTS junctor.audit (number bigserial PRIMARY KEY, entry text NOT NULL);

CREATE OR REPLACE FUNCTION junctor.audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$;
CREATE OR REPLACE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON junctor.audit
    FOR EACH STATEMENT EXECUTE FUNCTION junctor.audit_stays();

-- An account, locked, its window moved on to this second and its budget to this period. Callers write it back.
CREATE OR REPLACE FUNCTION junctor.opened(who text, at bigint, per bigint) RETURNS junctor.account LANGUAGE plpgsql AS $$
DECLARE a junctor.account;
BEGIN
    SELECT * INTO a FROM junctor.account WHERE name = who FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO junctor.account (name) VALUES (who) ON CONFLICT DO NOTHING;
        SELECT * INTO a FROM junctor.account WHERE name = who FOR UPDATE;
    END IF;
    IF a.second < at THEN
        FOR s IN greatest(greatest(a.second, at - 64) - 60, 0) .. at - 61 LOOP
            a.asked[s % 64 + 1] := 0;
            a.taken[s % 64 + 1] := 0;
        END LOOP;
        a.second := at;
    END IF;
    IF a.period <> per THEN
        a.period := per;
        a.spent := 0;
    END IF;
    RETURN a;
END $$;

CREATE OR REPLACE FUNCTION junctor.held(who text, now float8) RETURNS bigint LANGUAGE sql AS $$
    SELECT coalesce(sum(amount), 0)::bigint FROM junctor.hold WHERE account = who AND expires > now $$;

CREATE OR REPLACE FUNCTION junctor.put(a junctor.account) RETURNS void LANGUAGE sql AS $$
    UPDATE junctor.account SET period = a.period, spent = a.spent, second = a.second, soft = a.soft, hard = a.hard,
        asked = a.asked, taken = a.taken WHERE name = a.name $$;

-- Seconds until `want` more fit under a limit: the oldest second leaves the window 61 s after it began.
CREATE OR REPLACE FUNCTION junctor.wait(ring bigint[], second bigint, most bigint, want bigint, now float8) RETURNS float8
LANGUAGE plpgsql AS $$
DECLARE total bigint; freed bigint := 0;
BEGIN
    SELECT sum(x) INTO total FROM unnest(ring) x;
    FOR s IN greatest(second - 60, 0) .. second LOOP
        freed := freed + ring[s % 64 + 1];
        IF total - freed + want <= most THEN RETURN greatest(0.05, s + 61 - now); END IF;
    END LOOP;
    RETURN 60;
END $$;

-- [1, requests left, tokens left, budget left, soft, second, set aside, used by each account …], or [0, kind, place, ms, left]
CREATE OR REPLACE FUNCTION junctor.enter(
    now float8, second bigint, tokens bigint, ceiling bigint, plenty bigint, hold_id text, until float8, names text[],
    requests bigint[], most bigint[], budgets bigint[], softs bigint[], periods bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    a junctor.account; rows junctor.account[]; used bigint[]; total bigint; gone bigint; wait float8; worst float8 := -1;
    bad bigint[]; rl bigint := 4611686018427387904; tl bigint := rl; bl bigint := rl; soft bigint := 0; place bigint;
BEGIN
    FOR i IN 1 .. cardinality(names) LOOP
        a := junctor.opened(names[i], second, periods[i]);
        second := greatest(second, a.second);
        rows[i] := a;
        IF requests[i] >= 0 THEN
            SELECT sum(x) INTO total FROM unnest(a.asked) x;
            rl := least(rl, requests[i] - total - 1);
            IF requests[i] < total + 1 THEN
                wait := junctor.wait(a.asked, a.second, requests[i], 1, now);
                IF wait > worst THEN worst := wait; bad := ARRAY[0, 1, i, (wait * 1000)::bigint, greatest(0, requests[i] - total)]; END IF;
            END IF;
        END IF;
        IF most[i] >= 0 THEN
            SELECT sum(x) INTO total FROM unnest(a.taken) x;
            tl := least(tl, most[i] - total - tokens);
            IF most[i] < total + tokens THEN
                wait := junctor.wait(a.taken, a.second, most[i], tokens, now);
                IF wait > worst THEN worst := wait; bad := ARRAY[0, 2, i, (wait * 1000)::bigint, greatest(0, most[i] - total)]; END IF;
            END IF;
        END IF;
        gone := a.spent + junctor.held(names[i], now);
        used[i] := gone;
        IF budgets[i] >= 0 THEN bl := least(bl, budgets[i] - gone); END IF;
        IF softs[i] >= 0 AND gone >= softs[i] THEN soft := 1; END IF;
    END LOOP;
    IF bad IS NOT NULL THEN RETURN bad; END IF;
    IF bl = 4611686018427387904 OR bl < ceiling * plenty THEN ceiling := 0; END IF;
    place := second % 64 + 1;
    FOR i IN 1 .. cardinality(names) LOOP
        a := rows[i];
        IF requests[i] >= 0 THEN a.asked[place] := a.asked[place] + 1; END IF;
        IF most[i] >= 0 THEN a.taken[place] := a.taken[place] + tokens; END IF;
        PERFORM junctor.put(a);
        IF ceiling > 0 AND budgets[i] >= 0 THEN
            INSERT INTO junctor.hold VALUES (hold_id, names[i], ceiling, until)
                ON CONFLICT (account, ticket) DO UPDATE SET amount = junctor.hold.amount + excluded.amount;
        END IF;
    END LOOP;
    RETURN ARRAY[1, rl, tl, bl, soft, second, ceiling] || used;
END $$;

-- [1], or [0, place, left]
CREATE OR REPLACE FUNCTION junctor.reserve(
    now float8, want bigint, hold_id text, until float8, names text[], budgets bigint[], periods bigint[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE a junctor.account; have bigint;
BEGIN
    FOR i IN 1 .. cardinality(names) LOOP
        IF budgets[i] >= 0 THEN
            a := junctor.opened(names[i], 0, periods[i]);
            DELETE FROM junctor.hold WHERE account = names[i] AND expires <= now;
            have := budgets[i] - a.spent - junctor.held(names[i], now);
            IF want > have THEN RETURN ARRAY[0, i, greatest(0, have)]; END IF;
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(names) LOOP
        IF budgets[i] >= 0 THEN
            INSERT INTO junctor.hold VALUES (hold_id, names[i], want, until)
                ON CONFLICT (account, ticket) DO UPDATE SET amount = junctor.hold.amount + excluded.amount;
        END IF;
    END LOOP;
    RETURN ARRAY[1];
END $$;

-- [kind, place, spent, …] of the budgets that were crossed; 1 is soft, 2 hard
CREATE OR REPLACE FUNCTION junctor.book(
    who text, nth bigint, now float8, hold_id text, cost bigint, error bigint, at bigint, names text[], most bigint[],
    budgets bigint[], softs bigint[], periods bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE a junctor.account; crossed bigint[] := ARRAY[]::bigint[];
BEGIN
    INSERT INTO junctor.worker AS w VALUES (who, nth, now)
        ON CONFLICT (id) DO UPDATE SET number = nth, seen = now WHERE w.number < nth;
    IF NOT FOUND THEN RETURN crossed; END IF;
    FOR i IN 1 .. cardinality(names) LOOP
        a := junctor.opened(names[i], 0, periods[i]);
        DELETE FROM junctor.hold WHERE account = names[i] AND ticket = hold_id;
        a.spent := a.spent + cost;
        IF most[i] >= 0 AND at + 60 >= a.second THEN
            a.taken[at % 64 + 1] := a.taken[at % 64 + 1] + error;
        END IF;
        IF softs[i] >= 0 AND a.spent >= softs[i] AND a.soft <> a.period THEN
            a.soft := a.period;
            crossed := crossed || ARRAY[1, i, a.spent];
        END IF;
        IF budgets[i] >= 0 AND a.spent >= budgets[i] AND a.hard <> a.period THEN
            a.hard := a.period;
            crossed := crossed || ARRAY[2, i, a.spent];
        END IF;
        PERFORM junctor.put(a);
        IF cost <> 0 THEN
            INSERT INTO junctor.spent VALUES (names[i], a.period, cost)
                ON CONFLICT (account, period) DO UPDATE SET nano = junctor.spent.nano + excluded.nano;
        END IF;
    END LOOP;
    RETURN crossed;
END $$;
CREATE TABLE IF NOT EXISTS junctor.version (number bigint PRIMARY KEY);
DELETE FROM junctor.version;
INSERT INTO junctor.version VALUES ({version});
