BEGIN TRANSACTION;
CREATE TABLE equity (
            time_seconds REAL NOT NULL, quote TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (time_seconds, quote)
        ) WITHOUT ROWID
        ;
INSERT INTO "equity" VALUES(104.0,'USD','10000.00');
INSERT INTO "equity" VALUES(105.5,'EUR','9999.1234');
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
INSERT INTO "fills" VALUES('TAAAAA-AAAAA-AAAAA5','OAAAAA-AAAAA-AAAA05','C5/USD','buy','50000.0','0.00500000','250.00000','1.25000',102.0);
INSERT INTO "fills" VALUES('TAAAAA-AAAAA-AAAAA6','OAAAAA-AAAAA-AAAA06','C6/USD','sell','50000.0','0.01000000','500.00000','1.25000',103.125);
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
INSERT INTO "intents" VALUES('mybot0000000000001','intended','C1/USD','buy','limit','0.01000000','50000.0',101.0,'',0.0,0.0,'','');
INSERT INTO "intents" VALUES('mybot0000000000002','sent','C2/USD','buy','limit','0.01000000','50000.0',102.0,'1790000000000002',105.25,113.25,'','');
INSERT INTO "intents" VALUES('mybot0000000000003','unknown','C3/USD','buy','limit','0.01000000','50000.0',103.0,'1790000000000003',106.25,114.25,'','no answer');
INSERT INTO "intents" VALUES('mybot0000000000004','open','C4/USD','buy','limit','0.01000000','50000.0',104.0,'1790000000000004',107.25,115.25,'OAAAAA-AAAAA-AAAA04','');
INSERT INTO "intents" VALUES('mybot0000000000005','partly filled','C5/USD','buy','limit','0.01000000','50000.0',105.0,'1790000000000005',108.25,116.25,'OAAAAA-AAAAA-AAAA05','');
INSERT INTO "intents" VALUES('mybot0000000000006','filled','C6/USD','buy','limit','0.01000000','50000.0',106.0,'1790000000000006',109.25,117.25,'OAAAAA-AAAAA-AAAA06','');
INSERT INTO "intents" VALUES('mybot0000000000007','cancelled','C7/USD','buy','limit','0.01000000','50000.0',107.0,'1790000000000007',110.25,118.25,'OAAAAA-AAAAA-AAAA07','User requested');
INSERT INTO "intents" VALUES('mybot0000000000008','expired','C8/USD','buy','limit','0.01000000','50000.0',108.0,'1790000000000008',111.25,119.25,'OAAAAA-AAAAA-AAAA08','');
INSERT INTO "intents" VALUES('mybot0000000000009','refused','C9/USD','buy','limit','0.01000000','50000.0',109.0,'1790000000000009',112.25,120.25,'','EOrder:Insufficient funds');
INSERT INTO "intents" VALUES('mybot0000000000010','not placed','C10/USD','buy','limit','0.01000000','50000.0',110.0,'1790000000000010',113.25,121.25,'','it was looked for in vain');
INSERT INTO "intents" VALUES('other0000000000001','open','C11/USD','sell','stop-loss','0.01000000','50000.0',101.0,'',101.0,0.0,'OAAAAA-AAAAA-AAAA11','');
CREATE TABLE known (
            bot_id TEXT PRIMARY KEY, until_seconds REAL NOT NULL, intents INTEGER NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "known" VALUES('mybot',200.5,11);
INSERT INTO "known" VALUES('other',50.25,11);
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
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA04','mybot0000000000004','C4/USD','buy','limit','open','50000.0','0.01000000','0','0','0','0',101.0,0.0,900.5,'');
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA05','mybot0000000000005','C5/USD','buy','limit','open','50000.0','0.01000000','0.00500000','250.00000','0.62500','50000.0',101.0,0.0,0.0,'');
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA06','mybot0000000000006','C6/USD','buy','limit','closed','50000.0','0.01000000','0.01000000','500.00000','1.25000','50000.0',101.0,102.0,0.0,'');
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA07','mybot0000000000007','C7/USD','buy','limit','canceled','50000.0','0.01000000','0.00500000','250.00000','0.62500','50000.0',101.0,102.0,0.0,'User requested');
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA08','mybot0000000000008','C8/USD','buy','limit','expired','50000.0','0.01000000','0','0','0','0',101.0,130.5,0.0,'');
INSERT INTO "orders" VALUES('OAAAAA-AAAAA-AAAA11','other0000000000001','C11/USD','sell','stop-loss','pending','50000.0','0.01000000','0','0','0','0',101.0,0.0,0.0,'');
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
