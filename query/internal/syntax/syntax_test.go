package syntax

import (
	"errors"
	"strings"
	"testing"

	"github.com/daybook/daybook/query/internal/sqlerr"
)

// What analysts write parses; the list follows the constructs that public query sets use.
var accepted = []string{
	`SELECT * FROM pulsar."public/default"."orders" LIMIT 10`,
	`SELECT "id" FROM orders WHERE "status" = 'x'`,
	`SELECT id AS "Order ID", t.*, pulsar."public/default".orders.id FROM orders`,
	`SELECT o.address.geo.lat FROM orders o`,
	`SELECT key, schema, match, interval, partition, rank, offset, language, date, time, timestamp, value, type, level, range FROM t`,
	`SELECT prénom FROM clients`, `SELECT a$b FROM t`,
	`SELECT 1+2*3 AS x`, `SELECT ALL a FROM t`, `SELECT DISTINCT a, b FROM t`,
	`SELECT count(*) FILTER (WHERE a > 1), count(DISTINCT a) FROM t`,
	`SELECT a FROM t LIMIT 10 OFFSET 5`, `SELECT a FROM t OFFSET 5 LIMIT 10`, `SELECT a FROM t OFFSET 5 ROWS FETCH FIRST 10 ROWS ONLY`,
	`SELECT a FROM t LIMIT ALL`, `SELECT a FROM t ORDER BY a DESC NULLS LAST, 2 NULLS FIRST`,
	`SELECT a % 10, count(*) FROM t GROUP BY a % 10 HAVING count(*) > 5 ORDER BY 2`,
	`SELECT * FROM (VALUES (1,'a'),(2,'b')) AS v(id, name)`, `VALUES (1, 2), (3, 4)`, `VALUES 1, 2`,
	`WITH x AS (SELECT a FROM t), y(b) AS (SELECT a FROM x) SELECT * FROM x JOIN y ON x.a = y.b`,
	`SELECT CAST(a AS BIGINT), TRY_CAST(a AS DECIMAL(10,2)), CAST(a AS ARRAY(BIGINT)), CAST(a AS TIMESTAMP(3) WITH TIME ZONE) FROM t`,
	`SELECT CASE WHEN a > 1 THEN 'x' ELSE 'y' END, CASE a WHEN 1 THEN 'x' END FROM t`,
	`SELECT a FROM t WHERE a NOT BETWEEN 1 AND 5 AND b IN (1,2,3) OR c NOT IN (SELECT b FROM u)`,
	`SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u) AND (SELECT max(b) FROM u) > 1`,
	`SELECT a FROM t WHERE a LIKE 'x!%' ESCAPE '!' AND b IS DISTINCT FROM c AND c IS NOT DISTINCT FROM d`,
	`SELECT a || '-' || b FROM t WHERE a IS NOT NULL AND b IS TRUE`,
	`SELECT X'CAFE', 1.5e-3, .5, 1_000, -1, - -1, +5, TRUE, NULL`,
	`SELECT a FROM t WHERE d >= DATE '2024-01-01' AND ts >= TIMESTAMP '2024-01-01 00:00:00 UTC'`,
	`SELECT current_timestamp - INTERVAL '1' HOUR, current_date, now(), INTERVAL -'1-2' YEAR TO MONTH`,
	`SELECT ts AT TIME ZONE 'UTC' + INTERVAL '1' DAY FROM t`,
	`SELECT EXTRACT(HOUR FROM ts), POSITION('a' IN b), SUBSTRING(a FROM 2 FOR 3), substr(a||b, 2, 3), TRIM(BOTH ' ' FROM a), trim(a) FROM t`,
	`SELECT ARRAY[1,2,3][1], a[1], props['k'].x FROM t`, `SELECT ROW(1,2), left(a,1), if(a>1,2,3) FROM t`,
	`SELECT * FROM a FULL OUTER JOIN b ON a.x = b.x CROSS JOIN c LEFT JOIN d USING (x, y), e`,
	`SELECT * FROM (a JOIN b ON a.x = b.x) JOIN c ON c.y = b.y`, `SELECT * FROM (SELECT a FROM t)`,
	`SELECT * FROM a LEFT JOIN b JOIN c ON b.x = c.x ON a.x = b.x`,
	`SELECT a FROM t UNION SELECT a FROM u INTERSECT ALL SELECT a FROM v EXCEPT SELECT 1 ORDER BY a LIMIT 5`,
	`(SELECT a FROM t LIMIT 1) UNION ALL (SELECT a FROM u LIMIT 1)`, `((SELECT 1))`, `SELECT ((SELECT 1) + 2)`,
	`TABLE t`, `SELECT a -- hello`, `-- hi
	SELECT /* x */ a FROM t;`, `SELECT 'c:\temp', 'it''s', 'a"b'`, `/*! 0 */ SELECT /*!*/ 1`,
	`EXPLAIN SELECT a FROM t`, `EXPLAIN ANALYZE SELECT 1`, `EXPLAIN (TYPE LOGICAL) SELECT 1`,
	`SHOW CATALOGS`, `SHOW SCHEMAS`, `SHOW SCHEMAS FROM pulsar LIKE 'p%'`, `SHOW TABLES`, `SHOW TABLES FROM pulsar."public/default"`,
	`SHOW TABLES IN "public/default" LIKE 'o$_%' ESCAPE '$'`, `SHOW COLUMNS FROM orders`, `DESCRIBE orders`,
	`DESC pulsar."public/default".orders`, `SHOW CREATE TABLE t`, `SHOW FUNCTIONS`, `SHOW SESSION`, `USE pulsar."public/default"`,
	`SET SESSION query_max_run_time = '10m'`, `SET SESSION a.b = -1`, `RESET SESSION a.b`, `SET TIME ZONE 'UTC'`,
	`PREPARE p FROM SELECT a FROM t WHERE a = ? LIMIT ?`, `EXECUTE p USING 1, 'x'`, `EXECUTE p`, `EXECUTE IMMEDIATE 'SELECT 1' USING 2`,
	`DEALLOCATE PREPARE p`, `DESCRIBE INPUT p`, `DESCRIBE OUTPUT p`, `START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE`, `COMMIT`, `ROLLBACK WORK`,
	`SELECT a limit FROM t limit 3`, `SELECT NOT a = 1 AND b FROM t`, `SELECT approx_distinct(a), approx_percentile(b, 0.99) FROM t`,
}

func TestParsesTheDialect(t *testing.T) {
	for _, q := range accepted {
		if _, _, err := Parse(q); err != nil {
			t.Errorf("%s\n\t%v", q, err)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for q, want := range map[string]string{
		``:                                   `line 1:1: mismatched input '<EOF>'`,
		`SELECT a FROM`:                      `line 1:14: mismatched input '<EOF>'`,
		"SELECT a\nFROM t WHERE a = = 2":     `line 2:18: mismatched input '='`,
		"SELECT a\nFROM t WHERE a = 1 = 2":   `line 2:20: mismatched input '='`,
		`SELECT a b c FROM t`:                `line 1:12: mismatched input 'c'`,
		`SELECT group FROM t`:                `line 1:8: mismatched input 'group'`,
		`SELECT (1`:                          `line 1:10: mismatched input '<EOF>'. Expecting: ')'`,
		`SELECT 1)`:                          `line 1:9: mismatched input ')'`,
		`SELECT 'abc`:                        `line 1:8: string is not closed`,
		"SELECT a\x00 FROM t":                `line 1:9: statement contains a NUL character`,
		`SELECT a # b`:                       `line 1:10: unexpected character '#'`,
		`SELECT 1; SELECT 2`:                 `line 1:11: mismatched input 'SELECT'`,
		`SHOW ME THE MONEY`:                  `line 1:6: mismatched input 'ME'`,
		`EXPLAIN this is not sql`:            `line 1:9: mismatched input 'this'`,
		`DESCRIBE ) ( ][ x`:                  `line 1:10: mismatched input ')'`,
		`SELECT 1 FROM t JOIN u`:             `line 1:22: JOIN needs ON or USING`,
		`SELECT a IN () FROM t`:              `line 1:14: mismatched input ')'`,
		`SELECT 12abc`:                       `line 1:8: identifiers must not start with a digit`,
		`SELECT a = ANY (SELECT 1)`:          `line 1:12: a comparison with ANY of a query is not supported`,
		`SELECT CAST(a AS FOO)`:              `line 1:18: Unknown type: foo`,
		`INSERT INTO t VALUES (1)`:           `line 1:1: INSERT: topics are written by publishing`,
		`SELECT sum(a) OVER (ORDER BY b)`:    `line 1:15: a window function is not supported`,
		`SELECT é, ü FROM "x" WHERE a = = 1`: `line 1:32: mismatched input '='`,
		`SELECT 1 WHERE ` + strings.Repeat("(", 200) + "1" + strings.Repeat(")", 200): `statement is nested more than`,
		`SELECT ` + strings.Repeat("NOT ", 100_000) + `true`:                          `nested more than 2000 levels`,
		`SELECT ` + strings.Repeat("a[", 2_000):                                       `line`,
		strings.Repeat("x", 1<<20+1):                                                  `the limit is 1048576`,
	} {
		_, _, err := Parse(q)
		if len(q) > 60 {
			q = q[:60]
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", q, err, want)
		}
	}
}

func TestLongChainsParse(t *testing.T) {
	q := "SELECT 1 WHERE a = 1" + strings.Repeat(" OR a = 2", 20_000)
	s, _, err := Parse(q)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.(*QueryStatement).Query.Body.(*Select).Where.(*Logical).Args); n != 20_001 {
		t.Fatalf("%d terms", n)
	}
}

// Text inside strings and names is never taken for syntax, and comes back as written.
func TestTextIsKept(t *testing.T) {
	s, n, err := Parse(`SELECT 'c:\temp' || 'it''s -- "x" /* ?', "a b", ? FROM "T x"`)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	sel := s.(*QueryStatement).Query.Body.(*Select)
	cat := sel.Items[0].Expr.(*Binary)
	if cat.Op != "||" || cat.Left.(*Literal).Text != `c:\temp` || cat.Right.(*Literal).Text != `it's -- "x" /* ?` {
		t.Errorf("concatenation: %+v", cat)
	}
	if c := sel.Items[1].Expr.(*Column); c.Parts[0] != "a b" {
		t.Errorf("column: %+v", c)
	}
	if tab := sel.From[0].(*Table); tab.Parts[0] != "T x" {
		t.Errorf("table: %+v", tab)
	}
}

func TestIntersectBindsTighter(t *testing.T) {
	s, _, err := Parse(`SELECT 1 UNION SELECT 2 INTERSECT SELECT 3 EXCEPT ALL SELECT 4`)
	if err != nil {
		t.Fatal(err)
	}
	top := s.(*QueryStatement).Query.Body.(*SetOp)
	left := top.Left.(*SetOp)
	if top.Op != "EXCEPT" || !top.All || left.Op != "UNION" || left.Right.(*SetOp).Op != "INTERSECT" {
		t.Errorf("%+v", top)
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range accepted {
		f.Add(q)
	}
	f.Add("SELECT /*!")
	f.Add("select (((")
	f.Fuzz(func(t *testing.T, q string) {
		_, _, err := Parse(q)
		if err != nil {
			if _, ok := errors.AsType[*sqlerr.Error](err); !ok {
				t.Fatalf("error without a code: %v", err)
			}
			if strings.Contains(err.Error(), "unknown sentinel") {
				t.Fatal(err)
			}
		}
	})
}
