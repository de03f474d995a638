/*
 * Errors: one table (LEVEE_ERRORS) gives each code its name, class, text and advice; the
 * particulars travel in the caller's own struct.
 *
 * Texts are formatted into a local buffer first, so an error may be built from its own old text,
 * and are cut with "..." when they do not fit. Nothing here allocates: an error can always be
 * reported, above all "out of memory".
 */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>

/* The code of the newest err_set or err_sys of this thread. A caller may pass no struct, yet
 * `return err_where(err, ...)` must still give the code that the line before has set. */
static _Thread_local int newest_code;

static int code_of(const struct levee_error *err)
{
    return err ? err->code : newest_code;
}

static void put_text(char *to, size_t size, const char *fmt, va_list args) PRINTF(3, 0);

static void put_text(char *to, size_t size, const char *fmt, va_list args)
{
    char text[sizeof((struct levee_error *)0)->what];

    ASSERT(size <= sizeof text);
    int n = vsnprintf(text, size, fmt, args);
    if (n < 0) {
        text[0] = '\0';
    } else if ((size_t)n >= size) {
        memcpy(text + size - sizeof "...", "...", sizeof "...");
    }
    memcpy(to, text, strlen(text) + 1);
}

int err_set(struct levee_error *err, int code, const char *fmt, ...)
{
    va_list args;

    newest_code = code;
    if (err) {
        va_start(args, fmt);
        put_text(err->what, sizeof err->what, fmt, args);
        va_end(args);
        err->code = code;
        err->sys_errno = 0;
        err->where[0] = err->expected[0] = err->found[0] = '\0';
    }
    return code;
}

/* What a failed system call means to a caller who was only told "input/output error". */
static int code_of_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return LEVEE_ENOSPACE;
    case EACCES:
    case EPERM:
    case EROFS:
        return LEVEE_EACCESS;
    case ENOMEM:
        return LEVEE_ENOMEM;
    default:
        return LEVEE_EIO;
    }
}

int err_sys(struct levee_error *err, int code, int sys_errno, const char *fmt, ...)
{
    va_list args;

    if (code == LEVEE_EIO) {
        code = code_of_errno(sys_errno);
    }
    newest_code = code;
    if (err) {
        char text[sizeof err->what];
        char reason[96];

        va_start(args, fmt);
        put_text(text, sizeof text, fmt, args);
        va_end(args);
        if (strerror_r(sys_errno, reason, sizeof reason) != 0) {
            (void)snprintf(reason, sizeof reason, "errno %d", sys_errno);
        }
        err_set(err, code, "%s: %s", text, reason);
        err->sys_errno = sys_errno;
    }
    return code;
}

int err_where(struct levee_error *err, const char *fmt, ...)
{
    va_list args;

    if (err) {
        va_start(args, fmt);
        put_text(err->where, sizeof err->where, fmt, args);
        va_end(args);
    }
    return code_of(err);
}

int err_expected(struct levee_error *err, const char *fmt, ...)
{
    va_list args;

    if (err) {
        va_start(args, fmt);
        put_text(err->expected, sizeof err->expected, fmt, args);
        va_end(args);
    }
    return code_of(err);
}

int err_found(struct levee_error *err, const char *fmt, ...)
{
    va_list args;

    if (err) {
        va_start(args, fmt);
        put_text(err->found, sizeof err->found, fmt, args);
        va_end(args);
    }
    return code_of(err);
}

/* A context too long for the field loses its own end, never the failure that it stands in front of.
 */
int err_context(struct levee_error *err, const char *fmt, ...)
{
    va_list args;

    if (err) {
        char what[sizeof err->what];
        size_t len = strlen(err->what);
        size_t room = sizeof what - 1 - len; /* for the context and its ": " */

        if (room > sizeof "...: ") {
            va_start(args, fmt);
            put_text(what, room - 1, fmt, args);
            va_end(args);
            size_t context_len = strlen(what);
            memcpy(what + context_len, ": ", 2);
            memcpy(what + context_len + 2, err->what, len + 1);
            memcpy(err->what, what, context_len + 2 + len + 1);
        }
    }
    return code_of(err);
}

int err_nomem(struct levee_error *err, size_t bytes)
{
    return err_set(err, LEVEE_ENOMEM, "cannot allocate %zu bytes", bytes);
}

void err_clear(struct levee_error *err)
{
    if (err) {
        memset(err, 0, sizeof *err);
    }
}

void err_copy(struct levee_error *to, const struct levee_error *from)
{
    newest_code = code_of(from);
    if (to && from && to != from) {
        *to = *from;
    }
}

/* ---- the public side: tables and printing ---- */

struct entry {
    int code;
    enum levee_class class_;
    const char *name, *text, *advice;
};

static const struct entry entries[] = {
    {LEVEE_OK, LEVEE_CLASS_OK, "OK", "no error", "nothing to do"},
#define LEVEE_ERROR_ENTRY(name, value, class_, text, todo)                                         \
    {(value), LEVEE_CLASS_##class_, #name, (text), (todo)},
    LEVEE_ERRORS(LEVEE_ERROR_ENTRY)
#undef LEVEE_ERROR_ENTRY
};

static const struct entry unknown = {0, LEVEE_CLASS_MISUSE, "UNKNOWN", "unknown error code",
                                     "use the codes of levee/error.h"};

static const struct entry *entry_of(int code)
{
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        if (entries[i].code == code) {
            return &entries[i];
        }
    }
    return &unknown;
}

enum levee_class levee_error_class(int code)
{
    return entry_of(code)->class_;
}

const char *levee_error_name(int code)
{
    return entry_of(code)->name;
}

const char *levee_error_text(int code)
{
    return entry_of(code)->text;
}

const char *levee_error_advice(int code)
{
    return entry_of(code)->advice;
}

/* Appends and keeps buf terminated; what does not fit is cut. */
static void append(char *buf, size_t size, size_t *len, const char *before, const char *text)
{
    const char *parts[] = {before, text};

    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        for (const char *p = parts[i]; *p && *len + 1 < size; p++) {
            /* One line and no terminal tricks, even if a file name holds control bytes. */
            unsigned char byte = (unsigned char)*p;
            buf[(*len)++] = byte < 0x20 || byte == 0x7f ? '?' : *p;
        }
    }
    buf[*len] = '\0';
}

char *levee_error_format(const struct levee_error *err, char *buf, size_t size)
{
    const struct entry *e = entry_of(err ? err->code : LEVEE_OK);
    size_t len = 0;

    if (!buf || size == 0) {
        return buf;
    }
    append(buf, size, &len, e->name, ": ");
    append(buf, size, &len, err && err->what[0] ? err->what : e->text, "");
    if (err && err->code != LEVEE_OK) {
        if (err->where[0]) {
            append(buf, size, &len, "; where: ", err->where);
        }
        if (err->expected[0]) {
            append(buf, size, &len, "; expected: ", err->expected);
        }
        if (err->found[0]) {
            append(buf, size, &len, "; found: ", err->found);
        }
        append(buf, size, &len, "; what to do: ", e->advice);
    }
    return buf;
}

static int exit_code_of(enum levee_class class_)
{
    switch (class_) {
    case LEVEE_CLASS_MISUSE:
        return 1;
    case LEVEE_CLASS_REFUSED:
        return 2;
    case LEVEE_CLASS_CORRUPT:
        return 3;
    case LEVEE_CLASS_FATAL:
        return 4;
    case LEVEE_CLASS_RETRY:
        return 5;
    case LEVEE_CLASS_OK:
    case LEVEE_CLASS_STOPPED:
        return 0;
    }
    return 1;
}

int levee_print_error(FILE *f, const struct levee_error *err)
{
    char line[sizeof(struct levee_error) + 256];

    if (f) {
        /* A terminal that takes no text must not change the exit code. */
        (void)fprintf(f, "levee: %s\n", levee_error_format(err, line, sizeof line));
    }
    return err ? exit_code_of(levee_error_class(err->code)) : 0;
}
