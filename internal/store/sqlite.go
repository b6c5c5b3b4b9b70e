package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sallyport-dev/sallyport/internal/ledger"
)

// Names in a SQLite folder.
const (
	DatabaseName = "ledger.db"
	lockName     = "ledger.lock"
	poisonName   = "ledger.poisoned"
)

// ErrPoisoned is wrapped by OpenSQLite after a failed fsync: what the folder
// holds may differ from what was read before. Verify the ledger read-only
// (OpenSQLiteReadOnly), against a checkpoint kept elsewhere, restore it if need
// be, and call ClearPoison.
var ErrPoisoned = errors.New("store is poisoned by a failed fsync")

// ErrInUse is wrapped when another process has the folder open.
var ErrInUse = errors.New("store is open in another process")

var errReadOnly = errors.New("store is open for reading only")

// SQLite is a ledger.Store in a folder.
type SQLite struct {
	dir  string
	lock *os.File

	// mu is held for each write transaction: there is one writer, on one
	// connection, whose statements are kept prepared.
	mu      sync.Mutex
	writeDB *sql.DB
	writer  *sqliteConn
	fatal   error // set by a failed fsync; nothing is written after it
	firsts  firsts
	log     writeAhead

	readers *sql.DB
}

// Every pragma is per connection, so all stand in the DSN. secure_delete
// overwrites what is deleted: a destroyed key must not stay in a free page.
const writerParams = "_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)" +
	"&_pragma=synchronous(FULL)&_pragma=secure_delete(ON)&_pragma=cell_size_check(ON)&_pragma=trusted_schema(OFF)" +
	"&_pragma=wal_autocheckpoint(0)&_pragma=cache_size(-32768)"

// OpenSQLite opens the store in dir, an existing folder, and makes it if it is
// not there.
func OpenSQLite(dir string) (*SQLite, error) {
	return openSQLite(dir, writerParams, logPages)
}

func openSQLite(dir, params string, logPages int) (_ *SQLite, err error) {
	s := &SQLite{dir: dir}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", dir, err)
			s.Close()
		}
	}()
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, poisonName)); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrPoisoned, b)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// Made here for its mode; SQLite gives the same to its log and index.
	f, err := os.OpenFile(filepath.Join(dir, DatabaseName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if s.writeDB, err = sql.Open("sqlite", dsn(dir, params)); err != nil {
		return nil, err
	}
	c, err := s.writeDB.Conn(context.Background())
	if err != nil {
		return nil, err
	}
	s.writer = &sqliteConn{ctx: context.Background(), q: c, stmts: map[string]*sql.Stmt{}}
	if err := s.Update(context.Background(), func(w ledger.WriteTx) error { return migrate(w.(*tx), "sqlite") }); err != nil {
		return nil, err
	}
	// The names of the database and its log must be as durable as they are.
	if err := syncFolder(dir); err != nil {
		return nil, err
	}
	if err := s.openReaders("mode=ro&_pragma=query_only(1)&_pragma=busy_timeout(10000)&_pragma=trusted_schema(OFF)"); err != nil {
		return nil, err
	}
	return s, s.startCopying(logPages)
}

// OpenSQLiteReadOnly opens the store of a stopped server. Update is refused. A
// poisoned store can be read.
func OpenSQLiteReadOnly(dir string) (_ *SQLite, err error) {
	s := &SQLite{dir: dir, fatal: errReadOnly}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open store %s: %w", dir, err)
			s.Close()
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, DatabaseName)); err != nil {
		return nil, err
	}
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	// The folder is locked, so a WAL that a crash left can be recovered; that
	// loses nothing and needs write access to the folder, not to the data.
	if err := s.openReaders("mode=ro&_pragma=query_only(1)&_pragma=trusted_schema(OFF)"); err != nil {
		return nil, err
	}
	err = s.View(context.Background(), func(r ledger.ReadTx) error {
		known, err := migrations("sqlite")
		if err != nil {
			return err
		}
		return checkNewest(r.(*tx), int64(len(known)))
	})
	return s, err
}

func (s *SQLite) openReaders(params string) (err error) {
	s.readers, err = sql.Open("sqlite", dsn(s.dir, params))
	if err == nil {
		s.readers.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
		s.readers.SetMaxIdleConns(4)
		err = s.readers.Ping()
	}
	return err
}

func dsn(dir, params string) string {
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.Join(dir, DatabaseName), RawQuery: params}
	if !filepath.IsAbs(dir) {
		u.Path, u.Opaque = "", u.Path
	}
	return u.String()
}

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, err
	}
	return f, nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ClearPoison removes the marker of a failed fsync. Call it when the ledger in
// the folder was verified or restored.
func ClearPoison(dir string) error {
	if err := os.Remove(filepath.Join(dir, poisonName)); err != nil {
		return fmt.Errorf("clear poison: %w", err)
	}
	return syncFolder(dir)
}

// Close implements ledger.Store.
func (s *SQLite) Close() error {
	errs := []error{s.stopCopying()}
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// View implements ledger.Store.
func (s *SQLite) View(ctx context.Context, f func(ledger.ReadTx) error) error {
	t, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer t.Rollback()
	return f(&tx{c: &sqliteConn{ctx: ctx, q: t}})
}

// Update implements ledger.Store.
func (s *SQLite) Update(ctx context.Context, f func(ledger.WriteTx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fatal != nil {
		return s.fatal
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.writer.exec("BEGIN IMMEDIATE"); err != nil {
		return s.judge(err)
	}
	done := false
	defer func() {
		if !done { // f panicked
			s.rollback()
		}
	}()
	t := &tx{c: s.writer, firsts: &s.firsts}
	err := f(t)
	if err != nil {
		done = true
		return s.judge(errors.Join(err, s.rollback()))
	}
	err = s.writer.exec("COMMIT")
	done = true
	if err != nil {
		// Readers see no commit that failed, and the next one writes over its
		// frames. It is as if it had not been, unless fsync failed.
		return s.judge(errors.Join(err, s.rollback()))
	}
	s.firsts.add(t.added)
	s.countPages()
	return nil
}

// Purge implements ledger.Store. secure_delete has overwritten the pages in
// the write-ahead log; this copies them into the database and empties the log.
// A reader can keep the log in use for a while, so it waits for one.
func (s *SQLite) Purge(ctx context.Context) error {
	for {
		busy, err := s.truncateLog()
		if err != nil || !busy {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *SQLite) truncateLog() (busy bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fatal != nil {
		return false, s.fatal
	}
	busy, err = s.writer.checkpoint("TRUNCATE")
	return busy, s.judge(err)
}

// rollback ends the transaction, unless SQLite has done so by itself.
func (s *SQLite) rollback() error {
	err := s.writer.exec("ROLLBACK")
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code() == sqlite3.SQLITE_ERROR {
		return nil // no transaction is active
	}
	return err
}

// judge marks the store after errors that leave the disk in doubt. A full disk
// is not one: SQLite undoes the transaction and can go on.
func (s *SQLite) judge(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC:
		s.fatal = fmt.Errorf("%w: %w", ledger.ErrFatal, err)
		return errors.Join(s.fatal, s.poison(err))
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR:
		s.fatal = fmt.Errorf("%w: %w", ledger.ErrFatal, err)
		return s.fatal
	}
	return err
}

// poison leaves the marker. The disk may refuse it too; then only this process
// knows, and it has stopped.
func (s *SQLite) poison(cause error) error {
	err := os.WriteFile(filepath.Join(s.dir, poisonName), []byte(cause.Error()+"\n"), 0o600)
	if err == nil {
		err = syncFolder(s.dir)
	}
	if err != nil {
		return fmt.Errorf("leave poison marker: %w", err)
	}
	return nil
}
