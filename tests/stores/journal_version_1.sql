BEGIN TRANSACTION;
CREATE TABLE equity (
            time_seconds REAL NOT NULL, quote TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (time_seconds, quote)
        ) WITHOUT ROWID
        ;
INSERT INTO "equity" VALUES(104.0,'USD','10000.00');
CREATE TABLE fills (
            trade_id TEXT PRIMARY KEY,
            order_txid TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            price TEXT NOT NULL,
            volume TEXT NOT NULL,
            cost TEXT NOT NULL,
            fee TEXT NOT NULL,
            time_seconds REAL NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "fills" VALUES('TAAAAA-AAAAA-AAAAAA','OAAAAA-AAAAA-AAAAAA','BTC/USD','buy','50000.0','0.01000000','500.00000','1.25000',102.0);
CREATE TABLE intents (
            cl_ord_id TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            kind TEXT NOT NULL,
            volume TEXT NOT NULL,
            price TEXT NOT NULL,
            intended_seconds REAL NOT NULL,
            nonce TEXT NOT NULL,
            sent_seconds REAL NOT NULL,
            deadline_seconds REAL NOT NULL,
            txid TEXT NOT NULL,
            reason TEXT NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "intents" VALUES('mybot0000000000001','filled','BTC/USD','buy','limit','0.01000000','50000.0',100.0,'1790000000000000',103.0,111.0,'OAAAAA-AAAAA-AAAAAA','');
INSERT INTO "intents" VALUES('mybot0000000000002','sent','BTC/USD','buy','limit','0.01000000','50000.0',100.0,'1790000000000001',113.0,121.0,'','');
CREATE TABLE known (
            bot_id TEXT PRIMARY KEY, until_seconds REAL NOT NULL, intents INTEGER NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "known" VALUES('mybot',100.5,2);
CREATE TABLE orders (
            txid TEXT PRIMARY KEY,
            cl_ord_id TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            kind TEXT NOT NULL,
            status TEXT NOT NULL,
            price TEXT NOT NULL,
            volume TEXT NOT NULL,
            executed TEXT NOT NULL,
            cost TEXT NOT NULL,
            fee TEXT NOT NULL,
            average_price TEXT NOT NULL,
            opened_seconds REAL NOT NULL,
            closed_seconds REAL NOT NULL,
            expires_seconds REAL NOT NULL,
            reason TEXT NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAAAA','mybot0000000000001','BTC/USD','buy','limit','closed','50000.0','0.01000000','0.01000000','500.00000','1.25000','50000.0',101.0,102.0,0.0,'');
CREATE TABLE steps (before TEXT NOT NULL, after TEXT NOT NULL, PRIMARY KEY (before, after)) WITHOUT ROWID;
INSERT INTO "steps" VALUES('intended','cancelled');
INSERT INTO "steps" VALUES('intended','expired');
INSERT INTO "steps" VALUES('intended','filled');
INSERT INTO "steps" VALUES('intended','not placed');
INSERT INTO "steps" VALUES('intended','open');
INSERT INTO "steps" VALUES('intended','partly filled');
INSERT INTO "steps" VALUES('intended','sent');
INSERT INTO "steps" VALUES('not placed','cancelled');
INSERT INTO "steps" VALUES('not placed','expired');
INSERT INTO "steps" VALUES('not placed','filled');
INSERT INTO "steps" VALUES('not placed','open');
INSERT INTO "steps" VALUES('not placed','partly filled');
INSERT INTO "steps" VALUES('open','cancelled');
INSERT INTO "steps" VALUES('open','expired');
INSERT INTO "steps" VALUES('open','filled');
INSERT INTO "steps" VALUES('open','partly filled');
INSERT INTO "steps" VALUES('partly filled','cancelled');
INSERT INTO "steps" VALUES('partly filled','expired');
INSERT INTO "steps" VALUES('partly filled','filled');
INSERT INTO "steps" VALUES('refused','cancelled');
INSERT INTO "steps" VALUES('refused','expired');
INSERT INTO "steps" VALUES('refused','filled');
INSERT INTO "steps" VALUES('refused','open');
INSERT INTO "steps" VALUES('refused','partly filled');
INSERT INTO "steps" VALUES('sent','cancelled');
INSERT INTO "steps" VALUES('sent','expired');
INSERT INTO "steps" VALUES('sent','filled');
INSERT INTO "steps" VALUES('sent','intended');
INSERT INTO "steps" VALUES('sent','not placed');
INSERT INTO "steps" VALUES('sent','open');
INSERT INTO "steps" VALUES('sent','partly filled');
INSERT INTO "steps" VALUES('sent','refused');
INSERT INTO "steps" VALUES('sent','unknown');
INSERT INTO "steps" VALUES('unknown','cancelled');
INSERT INTO "steps" VALUES('unknown','expired');
INSERT INTO "steps" VALUES('unknown','filled');
INSERT INTO "steps" VALUES('unknown','not placed');
INSERT INTO "steps" VALUES('unknown','open');
INSERT INTO "steps" VALUES('unknown','partly filled');
CREATE INDEX intents_by_state ON intents (state);
CREATE INDEX fills_by_order ON fills (order_txid);
CREATE TRIGGER no_illegal_step BEFORE UPDATE OF state ON intents
        WHEN NEW.state <> OLD.state
            AND NOT EXISTS (SELECT 1 FROM steps WHERE before = OLD.state AND after = NEW.state)
        BEGIN SELECT RAISE(ABORT, 'this step is not in the life of an order'); END;
CREATE TRIGGER no_forgetting BEFORE DELETE ON intents WHEN OLD.state <> 'intended'
        BEGIN SELECT RAISE(ABORT, 'an order that may have left is not forgotten'); END;
COMMIT;
PRAGMA user_version = 1;
