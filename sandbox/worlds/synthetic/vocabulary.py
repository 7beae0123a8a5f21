"""Words of the generated lender: partners, places, names, products, banks."""

from typing import NamedTuple

PARTNERS = {
    "loja-azul": 24,
    "casa-forte": 18,
    "mercado-sol": 15,
    "moto-norte": 11,
    "cred-facil": 10,
    "agro-cerrado": 8,
    "fintech-ipe": 8,
    "exporta-sul": 6,
}

# (city, state, area code, weight)
CITIES = [
    ("São Paulo", "SP", "11", 120),
    ("Rio de Janeiro", "RJ", "21", 65),
    ("Brasília", "DF", "61", 30),
    ("Fortaleza", "CE", "85", 26),
    ("Salvador", "BA", "71", 26),
    ("Belo Horizonte", "MG", "31", 25),
    ("Manaus", "AM", "92", 21),
    ("Curitiba", "PR", "41", 18),
    ("Recife", "PE", "81", 16),
    ("Goiânia", "GO", "62", 15),
    ("Porto Alegre", "RS", "51", 14),
    ("Belém", "PA", "91", 14),
    ("Guarulhos", "SP", "11", 13),
    ("Campinas", "SP", "19", 12),
    ("São Luís", "MA", "98", 10),
    ("Maceió", "AL", "82", 9),
    ("Campo Grande", "MS", "67", 9),
    ("Teresina", "PI", "86", 9),
    ("Natal", "RN", "84", 8),
    ("João Pessoa", "PB", "83", 8),
    ("Ribeirão Preto", "SP", "16", 7),
    ("Uberlândia", "MG", "34", 7),
    ("Sorocaba", "SP", "15", 7),
    ("Cuiabá", "MT", "65", 7),
    ("Aracaju", "SE", "79", 6),
    ("Joinville", "SC", "47", 6),
    ("Feira de Santana", "BA", "75", 6),
    ("Londrina", "PR", "43", 6),
    ("Florianópolis", "SC", "48", 5),
    ("Porto Velho", "RO", "69", 5),
    ("Vitória", "ES", "27", 5),
    ("Caxias do Sul", "RS", "54", 5),
    ("Macapá", "AP", "96", 4),
    ("Boa Vista", "RR", "95", 4),
    ("Rio Branco", "AC", "68", 4),
    ("Palmas", "TO", "63", 3),
]

WOMEN = (
    "Maria Ana Francisca Antônia Adriana Juliana Márcia Fernanda Patrícia Aline Sandra Camila Amanda "
    "Bruna Jéssica Letícia Júlia Luciana Vanessa Mariana Gabriela Vera Vitória Larissa Cláudia Beatriz "
    "Rita Luana Sônia Renata Eliane Débora Íris Conceição"
).split()
MEN = (
    "José João Antônio Francisco Carlos Paulo Pedro Lucas Luiz Marcos Luís Gabriel Rafael Daniel Marcelo "
    "Bruno Eduardo Felipe Raimundo Rodrigo Manoel Mateus André Fernando Fábio Leonardo Gustavo Guilherme "
    "Leandro Tiago Anderson Ricardo Márcio Sebastião"
).split()
SURNAMES = (
    "Silva Santos Oliveira Souza Rodrigues Ferreira Alves Pereira Lima Gomes Costa Ribeiro Martins Carvalho "
    "Almeida Lopes Soares Fernandes Vieira Barbosa Rocha Dias Nascimento Andrade Moreira Nunes Marques "
    "Machado Mendes Freitas Cardoso Ramos Gonçalves Santana Teixeira Araújo Pinto Cavalcanti Moura Farias "
    "Batista Campos Monteiro Correia Duarte Peixoto D'Ávila Sá"
).split()
EMAIL_DOMAINS = ["example.com", "example.org", "example.net"]
BANKS = ["001", "033", "104", "237", "341", "260", "077", "336", "290", "380"]


class Product(NamedTuple):
    """A credit product: what it is for, how large, how long, how dear."""

    name: str
    weight: float
    purposes: tuple[str, ...]
    smallest: int
    largest: int
    incomes: float  # typical amount in monthly incomes
    terms: tuple[int, ...]
    rates: tuple[float, float]  # per month, for the best and the worst score
    business: bool = False
    foreign: bool = False


PRODUCTS = [
    Product(
        "personal_loan",
        34,
        ("debt_consolidation", "medical", "travel", "education", "home_improvement"),
        800,
        25_000,
        1.8,
        (6, 9, 12, 18, 24),
        (0.0249, 0.0649),
    ),
    Product(
        "purchase_financing",
        26,
        ("electronics", "furniture", "appliances"),
        300,
        6_000,
        0.6,
        (3, 6, 9, 12),
        (0.0199, 0.0499),
    ),
    Product(
        "payroll_loan",
        15,
        ("debt_consolidation", "home_improvement", "medical"),
        1_500,
        60_000,
        4.0,
        (12, 18, 24, 36, 48),
        (0.0149, 0.0214),
    ),
    Product(
        "working_capital",
        12,
        ("inventory", "payroll", "equipment", "tax"),
        8_000,
        250_000,
        9.0,
        (6, 12, 18, 24),
        (0.0179, 0.0379),
        business=True,
    ),
    Product(
        "vehicle_loan",
        9,
        ("car", "motorcycle", "truck"),
        9_000,
        95_000,
        7.0,
        (24, 36, 48),
        (0.0139, 0.0249),
    ),
    Product(
        "export_finance",
        2.5,
        ("export_contract", "shipping"),
        10_000,
        180_000,
        9.0,
        (3, 6, 9, 12),
        (0.0069, 0.0139),
        business=True,
        foreign=True,
    ),
    Product(
        "fx_advance",
        1.5,
        ("export_contract",),
        5_000,
        90_000,
        6.0,
        (1, 2, 3, 6),
        (0.0059, 0.0129),
        business=True,
        foreign=True,
    ),
]

CURRENCIES = ["BRL", "USD", "EUR"]
CHANNELS = ["app", "web", "partner_api"]
DEVICES = ["android", "ios", "desktop"]
CAMPAIGNS = [None, "organic", "search", "social", "email"]
