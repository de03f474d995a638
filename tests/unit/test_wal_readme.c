/*
 * The worked example of wal/README.md is true: its hex dump is read by the decoder, made again by
 * the writer and by the reference from the input the README names, and every row that explains it
 * names the bytes that are there. The README is found from the project's root, where tests run.
 */
#include "tests/unit/test_wal_rig.h"

#include <ctype.h>

#define README "wal/README.md"
#define SIZE   0x13000u /* of the example's segment */
#define USED   0x5000u
#define SALT   0x0123456789abcdefu

static uint8_t dump[SIZE];
static char text[1 << 17];
static struct ref_log r;

static const char first_payload[] = "first record";
static const char second_payload[] = "second";

/* ---- reading the README ---- */

static void read_readme(void)
{
    FILE *f = fopen(README, "r");

    ck_assert_msg(f != NULL, "no %s here: tests run from the project's root", README);
    size_t n = fread(text, 1, sizeof text - 1, f);
    ck_assert_uint_lt(n, sizeof text - 1);
    text[n] = '\0';
    (void)fclose(f);
}

/* Calls `each` for every line; the lines are ended in place. */
static void each_line(void (*each)(const char *line))
{
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n');
        MUST(end != NULL);
        *end = '\0';
        each(line);
        line = end + 1;
    }
}

/* Hex bytes from p on, up to something else. Returns how many. */
static size_t hex_bytes(const char *p, uint8_t *ret, size_t max)
{
    size_t n = 0;

    for (;;) {
        p += strspn(p, " ");
        if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
            isalnum((unsigned char)p[2])) {
            return n;
        }
        MUST(n < max);
        ret[n++] = (uint8_t)strtoul(p, NULL, 16);
        p += 2;
    }
}

/* A line as `hexdump -C` prints it: eight digits, sixteen bytes, the text; "*" repeats the line
 * before up to the next offset; the last line is the size alone. */
static uint64_t dump_at;
static bool dump_repeats, dump_ended;

static void dump_line(const char *line)
{
    uint8_t row[16];

    if (strcmp(line, "*") == 0 && dump_at > 0) {
        dump_repeats = true;
        return;
    }
    if (strspn(line, "0123456789abcdef") != 8 || dump_ended) {
        return;
    }
    uint64_t offset = strtoull(line, NULL, 16);
    MUST(offset <= SIZE && offset % 16 == 0 && offset >= dump_at);
    MUST(dump_repeats || offset == dump_at);
    for (; dump_at < offset; dump_at += 16) {
        memcpy(dump + dump_at, dump + dump_at - 16, 16);
    }
    dump_repeats = false;
    size_t n = hex_bytes(line + 8, row, 16);
    if (n == 0) {
        dump_ended = true;
        return;
    }
    MUST(n == 16 && offset < SIZE);
    memcpy(dump + offset, row, 16);
    for (int i = 0; i < 16; i++) { /* the column of letters says the same */
        const char *bar = strchr(line, '|');
        MUST(bar != NULL && strlen(bar) == 18);
        MUST(bar[1 + i] == (row[i] >= 0x20 && row[i] < 0x7f ? (char)row[i] : '.'));
    }
    dump_at = offset + 16;
}

static void read_dump(void)
{
    memset(dump, 0xee, sizeof dump);
    dump_at = 0;
    dump_repeats = dump_ended = false;
    read_readme();
    each_line(dump_line);
    ck_assert(dump_ended);
    ck_assert_uint_eq(dump_at, SIZE);
}

/* A row of the explanation: | `offset` | `bytes` | … */
static bool explained[USED];
static int rows;

static void explain_line(const char *line)
{
    uint8_t bytes[64];
    char *end;

    if (strncmp(line, "| `", 3) != 0 || !isxdigit((unsigned char)line[3])) {
        return;
    }
    uint64_t offset = strtoull(line + 3, &end, 16);
    if (strncmp(end, "` | `", 5) != 0) {
        return;
    }
    size_t n = hex_bytes(end + 5, bytes, sizeof bytes);
    MUST(n > 0 && offset + n <= USED);
    ck_assert_msg(memcmp(dump + offset, bytes, n) == 0, "%s: not what is in the dump", line);
    for (size_t i = 0; i < n; i++) {
        MUST(!explained[offset + i]);
        explained[offset + i] = true;
    }
    rows++;
}

/* ---- the same log again ---- */

static uint64_t fixed_salt(struct io *any)
{
    (void)any;
    return SALT;
}

static struct sent *example_frame(const char *payload, uint16_t type, uint16_t flags,
                                  uint32_t stream, uint64_t seq)
{
    struct sent *s = rig_frame(strlen(payload));

    memcpy(s->payload, payload, s->len);
    s->frame.type = type;
    s->frame.flags = flags;
    s->frame.stream = stream;
    s->frame.seq = seq;
    ck_assert_int_eq(wal_append(rig.wal, &s->frame, &err), LEVEE_OK);
    return s;
}

/* A new log, two frames in one group, a second of quiet. */
static void write_example(void)
{
    static struct io_ops fixed;

    rig_machine(1);
    fixed = *io->ops;
    fixed.random = fixed_salt;
    io->ops = &fixed;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    example_frame(first_payload, WAL_BLOCK, 0, 1, 7);
    example_frame(second_payload, WAL_BATCH_OPEN, 2, 0, 1);
    rig_settle();
    rig_run(1000 * MS);
}

START_TEST(the_writer_makes_the_dump)
{
    uint64_t size;

    read_dump();
    write_example();
    const uint8_t *bytes = segment_bytes(1, &size);
    ck_assert_uint_eq(size, SIZE);
    if (memcmp(bytes, dump, SIZE) != 0) {
        const char *tmp = getenv("TMPDIR");
        char path[IO_PATH_MAX];
        (void)snprintf(path, sizeof path, "%s/wal-readme.seg", tmp ? tmp : "/tmp");
        FILE *f = fopen(path, "wb");
        if (f) {
            (void)fwrite(bytes, 1, SIZE, f);
            (void)fclose(f);
        }
        ck_abort_msg("the README shows another segment than the writer makes; if the format was "
                     "meant to change, put in: hexdump -C %s",
                     path);
    }
    rig_end();
}
END_TEST

START_TEST(the_reference_makes_the_dump)
{
    static const uint8_t *payloads[] = {(const uint8_t *)first_payload,
                                        (const uint8_t *)second_payload};

    read_dump();
    struct ref_segment *s = ref_begin(&r, 1, SIZE, 1);
    s->salt = s->chain = SALT;
    ref_segment_header(s->bytes, 1, SALT, SIZE);
    memcpy(s->bytes + BLOCK, s->bytes, BLOCK);
    ref_group_begin(&r);
    ref_group_end(&r);
    ref_group_begin(&r);
    ref_append(
        &r,
        (struct ref_frame){
            .type = 1, .stream = 1, .lsn = r.next_lsn++, .seq = 7, .len = sizeof first_payload - 1},
        payloads[0]);
    ref_append(
        &r,
        (struct ref_frame){
            .type = 2, .flags = 2, .lsn = r.next_lsn++, .seq = 1, .len = sizeof second_payload - 1},
        payloads[1]);
    ref_group_end(&r);
    ref_group_begin(&r);
    ref_group_end(&r);
    ck_assert_uint_eq(s->at, USED);
    ck_assert_mem_eq(s->bytes, dump, SIZE);
    ref_release(&r);
}
END_TEST

START_TEST(the_scanner_reads_the_dump)
{
    struct wal_facts facts;
    struct buf buf = {0};

    read_dump();
    open_machine(1);
    put_file("0000000000000001.seg", dump, SIZE);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.segment_count, 1);
    ck_assert_uint_eq(facts.segments[0].salt, SALT);
    ck_assert_uint_eq(facts.segments[0].epoch, 1);
    ck_assert_uint_eq(facts.segments[0].end_offset, USED);
    ck_assert_uint_eq(facts.next_lsn, 3);
    ck_assert_uint_eq(facts.witnessed_lsn, 2); /* the idle seal says so */
    ck_assert_uint_eq(facts.entry_count, 2);
    const struct wal_entry *a = &facts.entries[0], *b = &facts.entries[1];
    ck_assert_int_eq(a->type, WAL_BLOCK);
    ck_assert_uint_eq(a->seq, 7);
    ck_assert_uint_eq(a->stream, 1);
    ck_assert_int_eq(b->type, WAL_BATCH_OPEN);
    ck_assert_int_eq(b->flags, 2);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, a, &buf, &err), LEVEE_OK);
    ck_assert(slice_eq(buf_view(&buf), slice_str(first_payload)));
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, b, &buf, &err), LEVEE_OK);
    ck_assert(slice_eq(buf_view(&buf), slice_str(second_payload)));
    buf_release(&buf);
    wal_facts_release(&facts);
    close_machine();
}
END_TEST

/* Every byte that is not zero is explained, by one row, which names the byte that is there. */
START_TEST(the_explanation_fits_the_dump)
{
    read_dump();
    read_readme();
    rows = 0;
    memset(explained, 0, sizeof explained);
    each_line(explain_line);
    ck_assert_int_ge(rows, 60);
    for (size_t i = 0; i < USED; i++) {
        bool second_header = i >= BLOCK && i < 2 * BLOCK;
        ck_assert_msg(dump[i] == 0 || explained[i] || second_header, "offset %x is not explained",
                      (unsigned)i);
    }
    ck_assert_mem_eq(dump, dump + BLOCK, BLOCK);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_readme");
    TCase *t = tcase_create("worked example");

    tcase_add_test(t, the_writer_makes_the_dump);
    tcase_add_test(t, the_reference_makes_the_dump);
    tcase_add_test(t, the_scanner_reads_the_dump);
    tcase_add_test(t, the_explanation_fits_the_dump);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
