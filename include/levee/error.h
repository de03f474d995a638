/*
 * levee errors and the two smallest types of the API.
 *
 * Every fallible call returns int: LEVEE_OK (0) or one of the negative codes below. The code has a
 * class that says what a caller can do about it; the text travels in the caller's own
 * `struct levee_error`, which may be NULL. There is no thread-local "last error".
 */
#ifndef LEVEE_ERROR_H
#define LEVEE_ERROR_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LEVEE_API __attribute__((visibility("default")))
#else
#define LEVEE_API
#endif

/* What a caller can do. */
enum levee_class {
    LEVEE_CLASS_OK = 0,
    LEVEE_CLASS_RETRY,   /* try again later; nothing changed */
    LEVEE_CLASS_MISUSE,  /* the caller's mistake (arguments, graph, order of calls); nothing changed
                          */
    LEVEE_CLASS_REFUSED, /* the directory, a sink or an option says no; nothing was touched */
    LEVEE_CLASS_CORRUPT, /* stored data fails its check; nothing was changed or deleted */
    LEVEE_CLASS_FATAL,   /* this object is dead: close it and start again (recovery runs) */
    LEVEE_CLASS_STOPPED  /* it was stopped, on purpose */
};

/* name, value, class, text, what to do. Values are stable for ever and never reused. */
#define LEVEE_ERRORS(X)                                                                            \
    X(NOMEM, -1, RETRY, "out of memory", "give the process more memory or lower the buffers")      \
    X(INVALID, -2, MISUSE, "invalid argument", "correct the call")                                 \
    X(STATE, -3, MISUSE, "not allowed in this state", "see the life cycle in levee.h")             \
    X(IO, -4, FATAL, "input/output error", "check the device, then start again: recovery runs")    \
    X(NOSPACE, -5, RETRY, "no space left", "free some space; work resumes by itself")              \
    X(ACCESS, -6, REFUSED, "permission denied or read-only", "make the path writable")             \
    X(FULL, -7, RETRY, "buffer full", "wait for the ready callback, then append again")            \
    X(TIMEOUT, -8, RETRY, "timed out", "wait longer")                                              \
    X(STOPPED, -9, STOPPED, "stopped", "start a new context on the same directory")                \
    X(FORKED, -10, MISUSE, "used after fork()", "create contexts after fork")                      \
    X(LIMIT, -11, MISUSE, "limit exceeded", "raise the option named, or send less")                \
    X(NOTFOUND, -12, MISUSE, "not found", "check the name")                                        \
    X(UNSUPPORTED, -13, MISUSE, "not supported", "see the limits in README.md")                    \
    X(CRASHED, -14, FATAL, "simulated crash", "tests only")                                        \
    X(THREAD, -15, FATAL, "cannot start a thread", "raise the process's thread limit")             \
    X(EXISTS, -16, MISUSE, "exists already", "choose another name")                                \
    X(LATE, -17, MISUSE, "the record is late", "raise the lateness, or take late records aside")   \
    X(DIR_FOREIGN, -50, REFUSED, "not a levee directory",                                          \
      "name an empty directory or one of ours")                                                    \
    X(DIR_NEWER, -51, REFUSED, "written by a newer levee", "use that version or a newer one")      \
    X(DIR_BUSY, -52, REFUSED, "directory is in use", "stop the process named, then start again")   \
    X(DIR_MISSING, -53, REFUSED, "state is missing", "mount or restore the state directory")       \
    X(DIR_OPTION, -54, REFUSED, "a frozen option differs", "start with the stored value")          \
    X(DIR_FS, -55, REFUSED, "file system not safe for state", "use a local disk")                  \
    X(WAL_CORRUPT, -100, CORRUPT, "the log is damaged",                                            \
      "keep the directory; restore the segment or re-fetch the range from upstream")               \
    X(WAL_GAP, -101, CORRUPT, "the log misses a range", "restore the missing segments")            \
    X(WAL_FAILED, -102, FATAL, "the log failed and takes nothing more",                            \
      "check the device, then start again: recovery runs")                                         \
    X(WAL_READ, -103, FATAL, "the log cannot be read", "check the device; nothing was cut")        \
    X(WAL_TOO_BIG, -104, MISUSE, "larger than a log segment", "raise segment_bytes")               \
    X(CKPT_CORRUPT, -200, CORRUPT, "a checkpoint file is damaged", "an older chain is used")       \
    X(CKPT_NONE, -201, CORRUPT, "no checkpoint chain verifies and the log does not reach back",    \
      "restore a checkpoint file from a backup")                                                   \
    X(CKPT_FAILED, -202, FATAL, "a checkpoint could not be published",                             \
      "check the device, then start again: recovery runs")                                         \
    X(CKPT_DIGEST, -203, CORRUPT, "the state's digest differs from the stored one",                \
      "report it: keep the directory")                                                             \
    X(SINK_AHEAD, -300, REFUSED, "a sink holds a batch this directory has never opened",           \
      "restore the newest copy of the directory; this one is older than the sink")                 \
    X(SINK_BEHIND, -301, REFUSED, "a sink has lost batches it had confirmed",                      \
      "restore the sink's data, or give it a new uid")                                             \
    X(SINK_FOREIGN, -302, REFUSED, "the sink belongs to another context",                          \
      "use another location, or adopt it")                                                         \
    X(SINK_FAILED, -303, FATAL, "a sink failed", "see the reason; start again to try again")       \
    X(NONDETERMINISTIC, -304, CORRUPT, "a replay gave another output than the first run",          \
      "make the function named deterministic")                                                     \
    X(UPGRADE_IN_FLIGHT, -305, REFUSED, "a batch of another program is in flight",                 \
      "drain with the old program first")                                                          \
    X(CLOCK_JUMP, -306, REFUSED, "the wall clock jumped",                                          \
      "set the clock, or raise max_clock_jump")                                                    \
    X(STATE_ORPHANED, -307, REFUSED, "stored state has no operator in this graph",                 \
      "add the operator back, or drop the state on purpose")                                       \
    X(STATE_VERSION, -308, REFUSED, "stored state has another version than the operator",          \
      "add a migration or use the old program")                                                    \
    X(RECOVERY_STUCK, -309, REFUSED, "recovery cannot decide", "see the facts named")              \
    X(SINK_FENCED, -310, FATAL, "another process has taken over this sink",                        \
      "let one process run per context; see who, below")                                           \
    X(SINK_REFUSED, -311, FATAL, "a sink refuses records of a batch",                              \
      "correct the records, or choose dead letters")                                               \
    X(GRAPH, -400, MISUSE, "the graph is not valid", "correct the graph")                          \
    X(GRAPH_UID, -401, MISUSE, "a uid is missing, malformed or used twice", "give it a uid")       \
    X(GRAPH_FROZEN, -402, MISUSE, "the graph is frozen after start", "build it in setup")          \
    X(FUNCTION, -403, FATAL, "a user function failed", "correct it, or choose dead letters")       \
    X(GUARANTEE, -404, REFUSED, "the graph is weaker than the guarantee asked for",                \
      "replace the part named, or ask for less")                                                   \
    X(DATA_MISSING, -500, REFUSED, "records are missing from a producer's sequence",               \
      "send the missing range first")                                                              \
    X(PRODUCER_UNKNOWN, -501, REFUSED, "unknown producer that does not start at 1",                \
      "start at 1 or use a known id")                                                              \
    X(PRODUCER_LIMIT, -502, REFUSED, "too many producers", "raise producers_max or send a bye")    \
    X(PRODUCER_STALE, -503, REFUSED, "a newer connection of this producer exists",                 \
      "close this one")                                                                            \
    X(OFFSET_RANGE, -504, CORRUPT, "the offset is out of the topic's range",                       \
      "the missing range is named; restore it or decide to skip it")                               \
    X(TOPIC, -505, REFUSED, "unknown topic", "create the topic")                                   \
    X(BROKER, -506, RETRY, "broker unreachable", "it keeps trying")                                \
    X(RECORD_TOO_LONG, -507, MISUSE, "record too long", "raise the maximum or split the record")   \
    X(CONNECTION, -508, RETRY, "connection failed", "it keeps trying")                             \
    X(PROTOCOL, -509, REFUSED, "protocol error", "see the format in docs")                         \
    X(TOPIC_CHANGED, -510, CORRUPT, "the topic no longer holds what was read from it",             \
      "it was truncated or made anew; start a new directory, or restore the topic")                \
    X(SOURCE_FOREIGN, -511, REFUSED, "another context reads these partitions in this group",       \
      "give each process a set or a group of its own, or adopt")                                   \
    X(RECORD_DAMAGED, -512, CORRUPT, "the source serves damaged records",                          \
      "check the source's disk; nothing was skipped")                                              \
    X(LEDGER, -520, CORRUPT, "a source's ledger of files is damaged or missing",                   \
      "restore sources/ with the rest of the directory")                                           \
    X(FILE_CHANGED, -521, CORRUPT, "a file changed after it was begun",                            \
      "restore it as it was, or choose to skip; write files elsewhere and move them in")           \
    X(FILE_MISSING, -522, CORRUPT, "a file vanished before all of it was read",                    \
      "put it back, or choose to skip")                                                            \
    X(SHARED, -530, CORRUPT, "a version of a broadcast or data set is missing or damaged",         \
      "restore shared/ with the rest of the directory")

enum levee_code {
    LEVEE_OK = 0,
#define LEVEE_ERROR_ENUM(name, value, class_, text, todo) LEVEE_E##name = (value),
    LEVEE_ERRORS(LEVEE_ERROR_ENUM)
#undef LEVEE_ERROR_ENUM
};

/*
 * An error's text. Plain data: copy it freely, no release. `what` names the thing and the failure,
 * `where` the file, offset, uid or line; `expected` and `found` are empty when they do not apply.
 */
struct levee_error {
    int code;
    int sys_errno; /* 0 when no system call was involved */
    char what[256];
    char where[256];
    char expected[96];
    char found[96];
};

/* Class of a code; LEVEE_CLASS_MISUSE for a code that does not exist. Thread: any. */
LEVEE_API enum levee_class levee_error_class(int code);
/* Stable short name ("WAL_CORRUPT"), never NULL. Thread: any. */
LEVEE_API const char *levee_error_name(int code);
/* General text of a code and general advice, never NULL. Thread: any. */
LEVEE_API const char *levee_error_text(int code);
LEVEE_API const char *levee_error_advice(int code);
/* Writes the whole error on one line into buf (always terminated); returns buf. Thread: any. */
LEVEE_API char *levee_error_format(const struct levee_error *err, char *buf, size_t size);
/* Prints the error to f on one line; returns a stable exit code for main(): 1 misuse, 2 refused,
 * 3 corrupt, 4 fatal, 5 retry, 0 none or stopped. Thread: any. Blocks: on f. */
LEVEE_API int levee_print_error(FILE *f, const struct levee_error *err);

/* A view of bytes that somebody else owns. data == NULL is "absent" (a null key, a tombstone);
 * an empty slice has data != NULL and len 0. */
struct levee_slice {
    const uint8_t *data;
    size_t len;
};

#ifdef __cplusplus
}
#endif
#endif
