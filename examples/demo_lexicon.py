"""The closed word lists and sentence templates of the demo documents (see `demo_documents.py`).

Slots in templates: `{person}`, `{town}`, `{date}`, `{money}`, `{number}`, `{topic}`, `{room}`; in facts
`{project}` and `{value}`; in observations `{sign}`; in policies `{cause}`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ATTRIBUTES",
    "CLAIM_FILLER",
    "DENIED",
    "FIRST_NAMES",
    "INSURED",
    "LAST_NAMES",
    "MINUTES_FILLER",
    "MONTHS",
    "OBSERVED",
    "PROJECTS",
    "ROOMS",
    "SIGNS",
    "TOPICS",
    "TOWNS",
    "Attribute",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Something that a project has: how one asks for it, how it is stated, what sort of value it takes."""

    name: str
    sort: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]


def _listed(words: str, separator: str = " ") -> tuple[str, ...]:
    return tuple(words.split(separator))


FIRST_NAMES = _listed(
    "Maria Anton Clara David Elena Felix Grace Hugo Irene Jonas Karin Louis Martha Nadia Oscar Paula Quentin "
    "Rosa Simon Teresa Ursula Victor Wanda Yusuf Zoe Albert Bruno Celia Dario Edith Frank Greta Henry Ingrid "
    "Julia Kevin Laura Marcus Nina Oliver"
)

LAST_NAMES = _listed(
    "Adler Becker Castro Dahl Ericson Fischer Garcia Hansen Ibarra Jensen Keller Lindqvist Moreau Novak "
    "Olsen Petrov Quinn Rossi Schmidt Turner Ueda Vargas Weber Young Zimmer Archer Bishop Carver Drake Ellis "
    "Foster Grant Holm Irving Joyce Knight Lambert Mason Norris Owens Parker Reyes Sutton Thorne Vance Walsh "
    "Abbott Bennett Cole Dalton"
)

TOWNS = _listed(
    "Bristol Calder Dunmore Eastport Fairhaven Glenrock Hartwell Ironbridge Kingsford Langley Marlow "
    "Northgate Oakham Penrose Ravenna Stanton Thornby Upton Valence Westbrook Ashford Brigham Corby Denholm "
    "Elmswell Farleigh Goring Halstead Ilford Kirkby Linton Malden Norwood Ormskirk Padstow Redhill Selby "
    "Tilbury Ulverston Whitby"
)

PROJECTS = _listed(
    "Kestrel Falcon Heron Osprey Raven Sparrow Swift Condor Egret Pelican Plover Curlew Linnet Merlin Robin "
    "Alder Aspen Birch Cedar Cypress Hazel Juniper Larch Laurel Linden Maple Rowan Spruce Willow Hawthorn "
    "Altair Antares Castor Deneb Mira Orion Pollux Rigel Sirius Vega Lyra Cygnus Draco Phoenix Hydra Agate "
    "Amber Basalt Beryl Cobalt Coral Garnet Granite Jasper Marble Onyx Opal Quartz Topaz Zircon Atlas Beacon "
    "Compass Harpoon Lantern Mariner Meridian Sextant Trident Zephyr Monsoon Glacier Canyon Delta Tundra "
    "Prairie Summit Horizon Aurora Eclipse"
)

MONTHS = _listed("January February March April May June July August September October November December")

TOPICS = _listed(
    "road repairs, staff training, the summer fair, parking fees, street lighting, waste collection, the "
    "school visits, fire drills, the ferry timetable, cycle paths, public benches, the new website, office "
    "furniture, tree planting, visitor numbers, noise complaints, the annual report, volunteer days, water "
    "quality, the harbour wall",
    separator=", ",
)


def _attributes() -> tuple[Attribute, ...]:
    sorts = {
        "person": (
            "auditor architect sponsor notary",
            ("Who is the {noun} of Project {project}?", "Who acts as {noun} of Project {project}?"),
            (
                "The {noun} of Project {project} is {value}.",
                "The board confirmed the {noun} of Project {project}, {value}, without debate.",
                "{value} acts as {noun} of Project {project}.",
            ),
        ),
        "date": (
            "lease permit warranty contract",
            (
                "When does the {noun} of Project {project} end?",
                "On what date does the {noun} of Project {project} end?",
            ),
            (
                "The {noun} of Project {project} ends on {value}.",
                "The {noun} of Project {project} was extended to {value} at no charge.",
                "On {value} the {noun} of Project {project} comes to an end.",
            ),
        ),
        "money": (
            "budget penalty deposit premium",
            ("How much is the {noun} of Project {project}?", "What is the {noun} of Project {project}?"),
            (
                "The {noun} of Project {project} was set at {value}.",
                "For the {noun} of Project {project} the treasurer recorded {value} in the ledger.",
                "An amount of {value} was approved as the {noun} of Project {project}.",
            ),
        ),
        "town": (
            "archive warehouse laboratory workshop",
            (
                "Where is the {noun} of Project {project}?",
                "In which town is the {noun} of Project {project}?",
            ),
            (
                "The {noun} of Project {project} is in {value}.",
                "The {noun} of Project {project} moved to {value} last spring.",
                "The town of {value} was chosen for the {noun} of Project {project}.",
            ),
        ),
    }
    return tuple(
        Attribute(
            name=noun,
            sort=sort,
            questions=tuple(question.replace("{noun}", noun) for question in questions),
            statements=tuple(statement.replace("{noun}", noun) for statement in statements),
        )
        for sort, (nouns, questions, statements) in sorts.items()
        for noun in nouns.split()
    )


ATTRIBUTES = _attributes()

MINUTES_FILLER = (
    "The chair welcomed the members and opened the meeting.",
    "The minutes of the last meeting were read and approved.",
    "{person} reported briefly on {topic}.",
    "The committee took note of the report on {topic} and moved on.",
    "A visitor from {town} asked about {topic}.",
    "There were no further remarks on {topic}.",
    "The discussion of {topic} was postponed until {date}.",
    "{person} and {person} sent their apologies.",
    "The treasurer said that {money} had been spent on {topic} so far.",
    "A letter from the council of {town} was read aloud.",
    "{number} members voted in favour and {number} against.",
    "After a short break the members returned to {topic}.",
    "{person} thanked the volunteers for their patience.",
    "The next visit to {town} is planned for {date}.",
    "Several members felt that {topic} deserved more attention.",
    "The secretary will write to {person} about {topic}.",
    "Coffee was served in the small hall.",
    "A survey of {number} residents in {town} showed little interest in {topic}.",
    "It was agreed to return to {topic} in the autumn.",
    "The old map of {town} was hung in the corridor.",
    "{person} asked whether {topic} could be moved to another day.",
    "Nobody objected, and the item was closed.",
    "The invoice of {money} for {topic} was paid on {date}.",
    "A small group will look into {topic} and report back.",
    "The members walked along the quay and looked at the boats.",
    "{person} recalled how {topic} had been handled in {town}.",
    "The weather was mild and the tide was low.",
    "Copies of the programme were handed out at the door.",
    "{person} offered to prepare a note on {topic}.",
    "The clerk counted {number} chairs and {number} tables.",
)

ROOMS = _listed(
    "kitchen, attic, cellar, garage, hallway, bathroom, office, bedroom, workshop, garden, dining room, "
    "laundry room, front room, back yard, storeroom",
    separator=", ",
)

SIGNS: dict[str, tuple[str, ...]] = {
    "fire": _listed(
        "soot, scorched beams, burn marks, charred wood, ash, melted cables, smoke stains, "
        "blackened plaster, embers, singed curtains",
        separator=", ",
    ),
    "water": _listed(
        "damp walls, mould, a burst pipe, soaked carpets, standing water, a leaking valve, swollen "
        "floorboards, drips, wet insulation, a flooded drain",
        separator=", ",
    ),
    "theft": _listed(
        "a forced lock, empty drawers, a missing safe, pry marks, a broken padlock, stolen jewellery, "
        "footprints, a picked lock, a missing television, an emptied cashbox",
        separator=", ",
    ),
    "storm": _listed(
        "torn shingles, hail dents, a fallen chimney, uprooted trees, a blown off roof, bent gutters, wind "
        "damage, snapped branches, a toppled fence, shattered skylights",
        separator=", ",
    ),
}

OBSERVED = (
    "The adjuster found {sign} in the {room}.",
    "{person} noticed {sign} near the {room}.",
    "The photographs show {sign} in the {room}.",
    "On {date} the surveyor recorded {sign} in the {room}.",
    "{person} pointed out {sign} by the {room}.",
    "A second visit confirmed {sign} in the {room}.",
)

DENIED = (
    "The adjuster found no trace of {sign} in the {room}.",
    "{person} saw no sign of {sign} near the {room}.",
    "The photographs show no sign of {sign} in the {room}.",
    "There was no trace of {sign} by the {room}.",
)

INSURED = (
    "This policy covers damage by {cause} and by nothing else.",
    "The cover of {person} is limited to damage by {cause}.",
    "Under the policy of {date} only damage by {cause} is insured.",
    "{person} is insured against damage by {cause} alone.",
)

CLAIM_FILLER = (
    "The file was opened on {date} by {person}.",
    "The policy holder, {person}, lives in {town}.",
    "A copy of the policy was sent to the office in {town}.",
    "{person} called on {date} and asked about the progress of the claim.",
    "The premium had been paid in full until {date}.",
    "The house has {number} windows and was last painted in spring.",
    "The adjuster measured the {room} and took {number} photographs.",
    "An estimate of {money} was received from a firm in {town}.",
    "{person} will send the remaining receipts by post.",
    "The letter of {date} was answered the same week.",
    "The neighbours in {town} were friendly and offered coffee.",
    "The {room} was furnished with {number} chairs and a table.",
    "The adjuster travelled from {town} by train.",
    "A form was missing and was sent again on {date}.",
    "The call with {person} lasted {number} minutes.",
    "The excess under the policy is {money}.",
    "The deed of the house names {person} and {person}.",
    "The file was handed over to {person} in the branch at {town}.",
    "No decision was taken on that day.",
    "The inventory lists {number} items in the {room}.",
    "{person} asked that all letters go to the address in {town}.",
    "A payment of {money} on account was discussed.",
    "The second expert was on leave until {date}.",
    "The plan of the {room} is attached as sheet {number}.",
    "The key to the {room} was returned to {person}.",
    "The claim was given a number and filed.",
    "The parties agreed to meet again on {date}.",
    "The door of the {room} faces the street.",
    "Nothing else was said about the {room}.",
    "The branch in {town} confirmed receipt of {number} pages.",
)
