{{ engagement() }}
