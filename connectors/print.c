/* print: the first n records of each batch on stdout. At least once: a batch in flight at a crash
 * is printed again. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/context.h"

struct printer {
    size_t limit, seen;
    int64_t time_ms;
};

static int print_begin(void *self, const struct levee_token *token, struct levee_error *err)
{
    struct printer *p = self;

    (void)err;
    p->seen = 0;
    p->time_ms = token->time_ms;
    (void)printf("-------------------------------------------\nTime: %" PRId64 " ms\n"
                 "-------------------------------------------\n",
                 token->time_ms);
    return LEVEE_OK;
}

static void print_slice(struct levee_slice s)
{
    if (s.len) {
        (void)fwrite(s.data, 1, s.len, stdout);
    }
}

static int print_write(void *self, size_t partition, const struct levee_record *records, size_t n,
                       struct levee_error *err)
{
    struct printer *p = self;

    (void)partition;
    (void)err;
    for (size_t i = 0; i < n && p->seen <= p->limit; i++, p->seen++) {
        if (p->seen == p->limit) {
            (void)printf("...\n");
            continue;
        }
        const struct levee_record *r = &records[i];
        print_slice(r->key);
        if (r->value.data) {
            (void)printf(r->key.data ? "\t" : "");
            /* A number when it can only be one: eight bytes beside a key are what the ready
             * reducers emit. */
            if (r->key.data && r->value.len == 8) {
                (void)printf("%" PRId64, levee_i64(r->value));
            } else {
                print_slice(r->value);
            }
        }
        (void)putchar('\n');
    }
    return LEVEE_OK;
}

static int print_commit(void *self, struct levee_error *err)
{
    (void)self;
    (void)err;
    (void)fflush(stdout);
    return LEVEE_OK;
}

static void print_destroy(void *self)
{
    mem_free(self);
}

static const struct levee_sink_ops print_ops = {
    .version = 1,
    .kind = LEVEE_SINK_AT_LEAST_ONCE,
    .begin = print_begin,
    .write = print_write,
    .commit = print_commit,
    .destroy = print_destroy,
};

int levee_print_at(levee_stream *s, size_t n, const char *file, int line)
{
    char uid[32];
    struct printer *p = s ? mem_zalloc(sizeof *p) : NULL;

    if (!p) {
        return s ? LEVEE_ENOMEM : LEVEE_EINVALID;
    }
    p->limit = n;
    (void)snprintf(uid, sizeof uid, "print-%zu", s->graph->count);
    int code = levee_sink_at(s, uid, &print_ops, p, file, line);
    if (code) {
        mem_free(p);
    }
    return code;
}
