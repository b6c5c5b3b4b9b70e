package store

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/record"
)

//go:embed schema
var schema embed.FS

// ErrSchema is wrapped when the database does not have the schema this binary
// knows. Use the binary that made it, or a newer one.
var ErrSchema = errors.New("schema is not known to this version")

type migration struct {
	number int64
	name   string
	sql    string
	digest string
}

// migrations reads the numbered files of a dialect.
func migrations(dialect string) ([]migration, error) {
	dir := "schema/" + dialect
	files, err := schema.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, f := range files { // sorted by name
		number, _, _ := strings.Cut(f.Name(), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n != int64(i+1) {
			return nil, fmt.Errorf("sallyport: internal error: migration %s is out of order", f.Name())
		}
		b, err := schema.ReadFile(dir + "/" + f.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		all = append(all, migration{n, f.Name(), string(b), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

const createMigrations = `CREATE TABLE IF NOT EXISTS migrations (
	number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL)`

// migrate brings the schema up to date inside a transaction. Each applied
// migration must be, byte for byte, the one that is embedded.
func migrate(t *tx, dialect string) error {
	known, err := migrations(dialect)
	if err != nil {
		return err
	}
	if err := t.c.exec(createMigrations); err != nil {
		return err
	}
	for _, m := range known {
		c, err := t.one(`SELECT digest FROM migrations WHERE number = ?`, 1, m.number)
		switch {
		case errors.Is(err, record.ErrNotFound):
			if err := apply(t, m); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
		case err != nil:
			return err
		case text(c[0]) != m.digest:
			return fmt.Errorf("%w: migration %s was applied with other contents", ErrSchema, m.name)
		}
	}
	return checkNewest(t, int64(len(known)))
}

func checkNewest(t *tx, newest int64) error {
	c, err := t.one(`SELECT COALESCE(MAX(number), 0) FROM migrations`, 1)
	if err != nil {
		return err
	}
	if n := integer(c[0]); n != newest {
		return fmt.Errorf("%w: it has number %d, this version has %d", ErrSchema, n, newest)
	}
	return nil
}

func apply(t *tx, m migration) error {
	for stmt := range strings.SplitSeq(m.sql, ";\n") {
		if strings.TrimSpace(stmt) == "" {
			continue
		}
		if err := t.c.exec(stmt); err != nil {
			return err
		}
	}
	return t.c.exec(`INSERT INTO migrations (number, name, digest) VALUES (?, ?, ?)`, m.number, m.name, m.digest)
}
