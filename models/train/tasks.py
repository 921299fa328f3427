"""Long-range tasks written into book text: what is planted, what is asked about it later.

A task is (plants, questions): plants are token lists to be placed in this order, anywhere; questions are
(prompt tokens, answer tokens, kind). A plant begins with a space, so that it can follow any sentence. FORMS.md shows
the forms in words.
"""
from functools import lru_cache

ONSETS = "B C D F G H J K L M N P R S T V W Z Br Ch Cl Cr Dr Fr Gr Kr Pl Pr Sh St Th Tr Vr Kl".split()
VOWELS = "a e i o u a e i o ai ea".split()
MIDDLES = "b d f g k l m n r s t v z nd rt lm st rn".split()
ENDS = ["", "", "n", "r", "l", "s", "th", "x", "m", "ck", "din", "ven", "mor", "tan"]
NUMBERS = ("secret code,secret code,secret code,access code,magic number,phone number,lucky number,ticket number,"
           "locker number,room number,account number,badge number,secret number,door code").split(",")
WORDS = "password,secret word,hiding place,home town,real name,best friend,code name,ship".split(",")
COMMON = ("apple river stone candle garden silver window letter horse bridge winter music paper forest mirror bottle "
          "ladder basket hammer island pepper saddle tunnel violin wagon anchor button cheese dragon engine feather "
          "goose honey iron jacket kettle lemon marble needle ocean pencil quilt rabbit sugar table umbrella").split()


class Tasks:
    def __init__(self, tokenizer, rng):
        self.tok, self.rng = tokenizer, rng
        self._encode = lru_cache(1 << 14)(lambda s: tuple(tokenizer.encode(s).ids))

    def enc(self, text):
        return list(self.tok.encode(text).ids)

    # -- material ------------------------------------------------------------------------------------------------
    def name(self):
        pick = self.rng.choice
        return pick(ONSETS) + pick(VOWELS) + "".join(
            pick(MIDDLES) + pick(VOWELS) for _ in range(self.rng.choice((0, 1, 1, 1, 2)))) + pick(ENDS)

    def names(self, n):
        """n different names; some share their beginning with another."""
        out = []
        while len(out) < n:
            x = self.name()
            if out and self.rng.random() < 0.15:
                y = self.rng.choice(out)
                x = y[:max(3, len(y) - 2)] + self.rng.choice(VOWELS) + self.rng.choice(ENDS)
            if x not in out:
                out.append(x)
        return out

    def number(self, digits=None):
        digits = digits or self.rng.choice((4, 5, 5, 5, 5, 6, 7))
        return str(self.rng.randrange(10 ** (digits - 1), 10 ** digits))

    def lead(self):
        """What separates a question from the text before it."""
        return self.rng.choice(("", "", "\n", "\n\n", "\n\nQuestion:", "\n\nQ:"))

    def ask(self, question, opening, answer, kind):
        """`question` with a capital; `opening` begins the answer, `answer` is what is scored (ends with a stop)."""
        lead = self.lead()
        gap = " " if lead == "" or lead[-1] == ":" else ""
        mid = self.rng.choice((" ", " ", " ", " ", "\nAnswer: ", "\n")) if lead else " "
        return self.enc(f"{lead}{gap}{question}{mid}{opening}"), self.enc(answer), kind

    # -- tasks ---------------------------------------------------------------------------------------------------
    def facts(self, n, questions):
        """n people, one attribute, so that all are each other's distractors."""
        if self.rng.random() < 0.75:
            what, value = self.rng.choice(NUMBERS), self.number
        else:
            what, value = self.rng.choice(WORDS), self.name
        digits = self.rng.choice((5, 5, 5, None))
        known = [(who, value(digits) if value == self.number else value()) for who in self.names(n)]
        plants = [self.enc(f" The {what} of {who} is {v}.") for who, v in known]
        asked = self.rng.sample(known, min(n, questions))
        return plants, [self.ask(f"What is the {what} of {who}?", f"The {what} of {who} is", f" {v}.", "fact")
                        for who, v in asked]

    def magic(self, n, questions):
        """RULER's wording of the same."""
        keys = self.names(n) if self.rng.random() < 0.5 else [
            "-".join(self.rng.sample(COMMON, 2)) for _ in range(n)]
        known = dict((k, self.number()) for k in keys)
        plants = [self.enc(f" One of the special magic numbers for {k} is: {v}.") for k, v in known.items()]
        asked = self.rng.sample(sorted(known), min(len(known), questions))
        return plants, [self.ask(f"What is the special magic number for {k} mentioned in the text?",
                                 f"The special magic number for {k} mentioned in the text is:", f" {known[k]}.",
                                 "fact") for k in asked]

    def multi_value(self, n, questions):
        what = self.rng.choice(NUMBERS)
        known = [(who, [self.number(5) for _ in range(self.rng.choice((2, 2, 3, 3, 4)))]) for who in self.names(n)]
        plants, at = [], [0] * n
        order = [i for i, (_, vs) in enumerate(known) for _ in vs]
        self.rng.shuffle(order)
        for i in order:
            plants.append(self.enc(f" One {what} of {known[i][0]} is {known[i][1][at[i]]}."))
            at[i] += 1
        return plants, [self.ask(f"What are the {len(vs)} {what}s of {who}?", f"The {len(vs)} {what}s of {who} are",
                                 f" {', '.join(vs[:-1])} and {vs[-1]}.", "values")
                        for who, vs in self.rng.sample(known, min(n, questions))]

    def multi_query(self, n, questions):
        what = self.rng.choice(NUMBERS)
        known = [(who, self.number(5)) for who in self.names(max(n, 3))]
        plants = [self.enc(f" The {what} of {who} is {v}.") for who, v in known]
        out = []
        for _ in range(questions):
            some = self.rng.sample(known, self.rng.choice((2, 3)))
            list_of = lambda xs: ", ".join(xs[:-1]) + " and " + xs[-1]
            out.append(self.ask(f"What are the {what}s of {list_of([w for w, _ in some])}?", "They are:",
                                " " + ", ".join(f"{w} is {v}" for w, v in some) + ".", "query"))
        return plants, out

    def variables(self, chains, questions):
        """A = number, B = A, C = B...: asked back to the number, or forward for all names that hold it."""
        plants, ends, heads = [], [], []
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        names = iter(["".join(self.rng.choice(letters) for _ in range(3)) for _ in range(5 * chains)])
        for _ in range(chains):
            value, hops = self.number(5), self.rng.choice((1, 2, 3, 4))
            line = [next(names) for _ in range(hops + 1)]
            plants.append((self.rng.random(), self.enc(f" VAR {line[0]} = {value}.")))
            last = plants[-1][0]
            for a, b in zip(line, line[1:]):
                last += self.rng.random() * 0.5
                plants.append((last, self.enc(f" VAR {b} = VAR {a}.")))
            ends.append((line, value))
        plants = [p for _, p in sorted(plants)]
        out = []
        for _ in range(questions):
            line, value = self.rng.choice(ends)
            if self.rng.random() < 0.6:
                steps = [f"VAR {b} = VAR {a}" for a, b in zip(line, line[1:])][::-1] + [f"VAR {line[0]} = {value}"]
                asked = line[-1]
                first = steps[0].split(" = ")[0]
                out.append(self.ask(f"What is the value of VAR {asked}?", f"{first} =",
                                    steps[0][len(first) + 2:] + "".join(", " + s for s in steps[1:]) + ".", "chain"))
            else:
                out.append(self.ask(f"Find all variables that are assigned the value {value}.", "They are:",
                                    " " + ", ".join(line) + ".", "holders"))
        return plants, out

    def copying(self, questions):
        out = []
        for _ in range(questions):
            words = " ".join(self.rng.choice((self.name(), self.rng.choice(COMMON), self.number()))
                             for _ in range(self.rng.randrange(4, 12)))
            out.append(self.ask(f"Repeat these words: {words}.", "The words:", f" {words}.", "copy"))
        return [], out

    def common(self):
        """A list with one word or two more often than the others: in one plant."""
        words = self.rng.sample(COMMON, self.rng.randrange(4, 9))
        top = words[0]
        line = [top] * self.rng.randrange(5, 8)
        for w in words[1:]:
            line += [w] * self.rng.choice((1, 1, 2))
        self.rng.shuffle(line)
        mark = self.name()
        return [self.enc(f" The list of {mark}: {', '.join(line)}.")], [
            self.ask(f"Which word is most common in the list of {mark}?", "The most common word is", f" {top}.",
                     "common")]

    def mixture(self, budget):
        """Tasks with about `budget` questions among them, and their plants: [(plants, questions)]."""
        out, rng = [], self.rng
        while budget > 0:
            x = rng.random()
            if x < 0.34:
                q = rng.randrange(2, 9)
                task = self.facts(rng.choice((q, q, q + 4, q + 12, 1)), q)
            elif x < 0.45:
                q = rng.randrange(1, 5)
                task = self.magic(q + rng.randrange(0, 9), q)
            elif x < 0.63:
                task = self.multi_value(rng.randrange(1, 5), 2)
            elif x < 0.71:
                task = self.multi_query(rng.randrange(3, 10), 1)
            elif x < 0.89:
                task = self.variables(rng.randrange(1, 4), 2)
            elif x < 0.91:
                task = self.copying(1)
            else:
                task = self.common()
            budget -= max(1, len(task[1]))
            out.append(task)
        return out
