/*
 * What an answer of a transactional call means: every code of librdkafka and of the protocol, known
 * or not, times every combination of its flags. Expected values come from the three rules below,
 * not from the function's own table. What the calls then do about it is shown on a real broker, by
 * l_forged_every_error_code_in_every_reply.
 *
 * 1  "Again" is only an answer that had no effect and may be repeated: the client says so, and says
 *    neither that the transaction has to be aborted nor that the producer is lost.
 * 2  Whoever is fenced stops to ask who did it, whatever the flags.
 * 3  What asking again does not change ends the job with a typed error: rights, versions, settings.
 * Everything else is unclear.
 */
#include <stdbool.h>
#include <stdio.h>

#include "connectors/kafka_sink.h"
#include "tests/support/suite.h"

#define LOWEST  (-250)
#define HIGHEST 250

static bool in(int code, const int *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == code) {
            return true;
        }
    }
    return false;
}

/* By their numbers in the protocol, and in librdkafka where these are negative. */
static const int fenced[] = {47, 90, -144};
static const int refused[] = {29, 30, 31, 35, 50, 53, 58, -165, -169};

START_TEST(l_outcomes_every_code_with_every_flag)
{
    unsigned count[5] = {0};

    for (int code = LOWEST; code <= HIGHEST; code++) {
        for (unsigned flags = 0; flags < 8; flags++) {
            bool fatal = flags & 1, retriable = flags & 2, aborts = flags & 4;
            enum ksink_outcome o =
                ksink_outcome_of((rd_kafka_resp_err_t)code, fatal, retriable, aborts);
            enum ksink_outcome want = code == 0                        ? KSINK_OK
                                      : in(code, fenced, 3)            ? KSINK_FENCED
                                      : in(code, refused, 9)           ? KSINK_REFUSED
                                      : retriable && !fatal && !aborts ? KSINK_AGAIN
                                                                       : KSINK_UNCLEAR;
            ck_assert_msg(o == want, "code %d, fatal %d, retriable %d, aborts %d: %d, not %d", code,
                          fatal, retriable, aborts, (int)o, (int)want);
            count[o]++;
        }
    }
    /* An eighth of all that is in no list may be repeated. */
    const unsigned codes = HIGHEST - LOWEST + 1, listed = 1 + 3 + 9;
    ck_assert_uint_eq(count[KSINK_OK], 8);
    ck_assert_uint_eq(count[KSINK_FENCED], 3 * 8);
    ck_assert_uint_eq(count[KSINK_REFUSED], 9 * 8);
    ck_assert_uint_eq(count[KSINK_AGAIN], codes - listed);
    ck_assert_uint_eq(count[KSINK_UNCLEAR], 7 * (codes - listed));
    printf("trials l_outcomes_every_code_with_every_flag %u\n", 8 * codes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("answers of transactional calls");
    TCase *c = tcase_create("outcomes");

    tcase_add_test(c, l_outcomes_every_code_with_every_flag);
    suite_add_tcase(s, c);
    return suite_main(s);
}
